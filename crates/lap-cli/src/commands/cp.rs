//! `lap cp`: one file into a sandbox or out of it.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::{Stream, stream};
use lap_client::Client;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::args::CpArgs;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::resolve;

/// Read at a time.
const PIECE: usize = 64 * 1024;

pub(super) async fn cp(args: CpArgs, client: &Client, context: &mut Context) -> Result<Exit, Failure> {
    let CpArgs { from, to } = args;
    match (remote(&from), remote(&to)) {
        (Some((session, path)), None) => {
            let id = resolve::session_id(session)?;
            out(client, &id, path, local(&to, path)).await?;
        }
        (None, Some((session, path))) => {
            let id = resolve::session_id(session)?;
            let from = PathBuf::from(&from);
            let path = into(path, &from)?;
            inside(client, &id, &path, &from).await?;
        }
        _ => {
            return Err(Failure::usage("one of the two must be SESSION:PATH, the other a file here")
                .hint("lap cp SESSION:/work/repo/report.txt .   or   lap cp data.csv SESSION:/work/repo/"));
        }
    }
    let _ = context;
    Ok(Exit::Ok)
}

/// `SESSION:PATH`; a path of this machine has a slash before any colon, or no colon.
fn remote(text: &str) -> Option<(&str, &str)> {
    let (session, path) = text.split_once(':')?;
    (!session.is_empty() && !session.contains('/') && !path.is_empty()).then_some((session, path))
}

/// Where a file of this name goes here.
fn local(to: &str, path: &str) -> PathBuf {
    let to = PathBuf::from(to);
    match path.rsplit('/').next() {
        Some(name) if to.is_dir() && !name.is_empty() => to.join(name),
        _ => to,
    }
}

/// Where a file of this name goes there.
fn into(path: &str, from: &Path) -> Result<String, Failure> {
    if !path.ends_with('/') {
        return Ok(path.to_owned());
    }
    match from.file_name().and_then(|name| name.to_str()) {
        Some(name) => Ok(format!("{path}{name}")),
        None => Err(Failure::usage(format!("{} has no name to go by", from.display()))),
    }
}

async fn out(client: &Client, id: &str, path: &str, to: PathBuf) -> Result<(), Failure> {
    let mut content = client.read_file(id, path).await?;
    // Beside its place first, so that nobody takes a half for the whole.
    let mut part = to.clone().into_os_string();
    part.push(".lap-part");
    let part = PathBuf::from(part);
    let failed = |problem: std::io::Error| Failure::file("write", &to, &problem);
    let mut file = File::create(&part).await.map_err(failed)?;
    let written = async {
        while let Some(piece) = content.next().await? {
            file.write_all(&piece).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)
    };
    match written.await {
        Ok(()) => tokio::fs::rename(&part, &to).await.map_err(failed),
        Err(failure) => {
            // What is left of it would be found by nobody.
            let _ = tokio::fs::remove_file(&part).await;
            Err(failure)
        }
    }
}

async fn inside(client: &Client, id: &str, path: &str, from: &Path) -> Result<(), Failure> {
    let failed = |problem: &std::io::Error| Failure::file("read", from, problem);
    let file = File::open(from).await.map_err(|problem| failed(&problem))?;
    if file.metadata().await.map_err(|problem| failed(&problem))?.is_dir() {
        return Err(Failure::usage(format!("{} is a folder", from.display()))
            .hint(format!("tar -C {} -c . | lap exec {id} -- tar -C {path} -x", from.display())));
    }
    Ok(client.write_file(id, path, pieces(file)).await?)
}

fn pieces(file: File) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    stream::try_unfold(file, |mut file| async {
        let mut piece = vec![0; PIECE];
        let length = file.read(&mut piece).await?;
        piece.truncate(length);
        Ok((length > 0).then(|| (Bytes::from(piece), file)))
    })
}

#[cfg(test)]
mod tests;
