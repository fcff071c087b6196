//! Files of a session's sandbox: streamed, never held as a whole.

use bytes::Bytes;
use futures_util::Stream;
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use lap_api::files::FileEntry;
use lap_api::list::List;

use crate::error::{Error, root_cause};
use crate::transport::{ANSWER_DEADLINE, Call, Client};

/// A file's content as it comes.
#[derive(Debug)]
pub struct FileContent {
    body: Incoming,
    server: String,
}

impl FileContent {
    /// The next piece; none at the end. An error means that the file is not whole.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
                Some(Err(problem)) => {
                    return Err(Error::Lost { server: self.server.clone(), cause: root_cause(&problem) });
                }
            }
        }
    }
}

impl Client {
    /// Reads a file: an absolute path, or `~/…`.
    pub async fn read_file(&self, session_id: &str, path: &str) -> Result<FileContent, Error> {
        let segments = segments(session_id, path);
        let call = Call::managed(Method::GET, &segments).accept("*/*").deadline(Some(ANSWER_DEADLINE));
        Ok(FileContent { body: self.open(call).await?.into_body(), server: self.server().to_owned() })
    }

    /// Writes a file, which appears when all of it has arrived.
    pub async fn write_file(
        &self,
        session_id: &str,
        path: &str,
        content: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), Error> {
        let segments = segments(session_id, path);
        self.empty(Call::managed(Method::PUT, &segments).stream(content).deadline(None)).await
    }

    /// What a folder holds.
    pub async fn list_files(&self, session_id: &str, path: &str) -> Result<Vec<FileEntry>, Error> {
        let call = Call::managed(Method::GET, &["sessions", session_id, "files"]).query("path", Some(path));
        Ok(self.json::<List<FileEntry>>(call).await?.data)
    }
}

fn segments<'a>(session_id: &'a str, path: &'a str) -> Vec<&'a str> {
    ["sessions", session_id, "files"].into_iter().chain(path.trim_start_matches('/').split('/')).collect()
}
