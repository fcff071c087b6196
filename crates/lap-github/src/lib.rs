//! The platform as a GitHub App: makes a token for one repository when a sandbox needs one.
//!
//! The app's private key stays in this process. What leaves it are statements signed with the key, valid for minutes, toward
//! the API alone; what comes back is a token for one repository with the permissions asked for, valid for about an hour.
//! Knows no session and no sandbox; who renews and who is told is the engine's business.

mod api;
mod connect;
mod jwt;

use lap_domain::repository_token::Repository;
use lap_domain::secret::Secret;
use lap_engine::{Minting, TokenMinter};

pub use api::ApiBase;

/// What the operator says of the app.
#[derive(Debug, Clone)]
pub struct GithubAppConfig {
    /// Its number or client id, as GitHub shows it.
    pub app_id: String,
    /// PEM, as GitHub hands it out.
    pub private_key_pem: Secret,
    /// Where the API is.
    pub api: ApiBase,
    /// What tokens may do, as GitHub names it: `contents` → `write`. Empty: all that the app may.
    pub permissions: Vec<(String, String)>,
    /// Certificates trusted beside the system's.
    pub extra_ca_pem: Option<String>,
}

/// An app that cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum GithubAppError {
    /// Not something GitHub would have handed out.
    #[error("is no RSA private key in PEM, as GitHub hands it out for an app")]
    BadKey,
    /// The authorities cannot be read.
    #[error("the certificates trusted beside the system's cannot be read")]
    BadAuthority,
}

/// Makes tokens.
pub struct GithubApp {
    app_id: String,
    key: jwt::SigningKey,
    api: api::Api,
    permissions: Vec<(String, String)>,
}

impl GithubApp {
    /// Checks the key; asks nobody.
    pub fn new(config: GithubAppConfig) -> Result<Self, GithubAppError> {
        let GithubAppConfig { app_id, private_key_pem, api, permissions, extra_ca_pem } = config;
        Ok(Self {
            key: jwt::SigningKey::from_pem(&private_key_pem)?,
            api: api::Api::new(api, extra_ca_pem.as_deref())?,
            app_id,
            permissions,
        })
    }
}

impl TokenMinter for GithubApp {
    fn mint<'a>(&'a self, repository: &'a Repository) -> Minting<'a> {
        Box::pin(async move {
            let statement = self.key.statement(&self.app_id, jwt::unix_seconds());
            self.api.token(&statement, repository, &self.permissions).await
        })
    }
}
