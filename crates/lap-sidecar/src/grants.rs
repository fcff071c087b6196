//! From the server's grants to the vault's, and what changes of them while the sandbox lives: the clone ends, the server
//! sends new ones, session-level credentials stay.

use lap_api::link::{CredentialGrant, CredentialScope, Grants};
use lap_domain::credential::{Credential, HostRule, Scope};
use lap_domain::egress::{Entry, Policy};
use lap_domain::problem::Problem;
use lap_domain::secret::Secret;
use lap_vault::{Gateway, Outbound, ResolveOverride};

/// Grants the vault cannot take. Says which entry, never a value.
#[derive(Debug, thiserror::Error)]
#[error("could not use the grants: {0}")]
pub struct GrantError(String);

/// What is granted now.
pub struct Holder {
    current: Grants,
    /// Names of credentials that came with the session: only the sidecar has their values.
    session_keys: Vec<String>,
    clone_over: bool,
}

impl Holder {
    /// Starts with what the boot message brought.
    pub fn new(grants: Grants, session_keys: Vec<String>) -> Self {
        Self { current: grants, session_keys, clone_over: false }
    }

    /// Names of the session-level credentials held here.
    pub fn session_keys(&self) -> &[String] {
        &self.session_keys
    }

    /// Takes the server's new credentials; session-level ones, those named in `keep`, lists and the end of the clone stay as
    /// they are.
    pub fn replace(&mut self, mut credentials: Vec<CredentialGrant>, keep: &[String]) {
        let own = |credential: &CredentialGrant| {
            self.session_keys.contains(&credential.name) || keep.contains(&credential.name)
        };
        credentials.retain(|credential| !own(credential));
        credentials.extend(self.current.credentials.drain(..).filter(own));
        self.current.credentials = credentials;
        if self.clone_over {
            self.end_clone();
        }
    }

    /// The lists that hold now.
    pub fn egress_revision(&self) -> u64 {
        self.current.egress_revision
    }

    /// Takes other lists, unless these are older. Lists that cannot be read change nothing.
    pub fn replace_lists(
        &mut self,
        revision: u64,
        allow_out: Vec<String>,
        deny_out: Vec<String>,
    ) -> Result<(), GrantError> {
        if revision <= self.current.egress_revision {
            return Ok(());
        }
        Policy::parse(&allow_out, &deny_out, &[], &[]).map_err(|problems| listed(&problems))?;
        self.current.egress_revision = revision;
        self.current.allow_out = allow_out;
        self.current.deny_out = deny_out;
        Ok(())
    }

    /// The clone is over: what was granted for it ends, and its secret leaves memory.
    pub fn end_clone(&mut self) {
        self.clone_over = true;
        self.current.credentials.retain(|credential| !credential.clone_only);
        self.current.implied_for_clone.clear();
    }

    /// As the vault takes them.
    pub fn for_vault(&self) -> Result<lap_vault::Grants, GrantError> {
        let Grants {
            credentials,
            allow_out,
            deny_out,
            egress_revision: _,
            implied,
            implied_for_clone,
            private_allow,
            resolve,
            gateway,
            extra_ca_pem,
            passthrough,
            outbound,
        } = &self.current;
        let implied: Vec<String> = implied.iter().chain(implied_for_clone).cloned().collect();
        Ok(lap_vault::Grants {
            credentials: credentials.iter().map(credential).collect::<Result<_, _>>()?,
            policy: Policy::parse(allow_out, deny_out, &implied, private_allow)
                .map_err(|problems| listed(&problems))?,
            resolve: resolve
                .iter()
                .map(|entry| ResolveOverride::parse(entry))
                .collect::<Result<_, _>>()
                .map_err(said)?,
            gateway: gateway.as_ref().map(|gateway| Gateway::parse(&gateway.base_url)).transpose().map_err(said)?,
            extra_ca_pem: extra_ca_pem.clone(),
            passthrough: passthrough.iter().map(|entry| Entry::parse(entry)).collect::<Result<_, _>>().map_err(said)?,
            outbound: outbound
                .as_ref()
                .map(|outbound| Outbound::parse(&outbound.url, &outbound.no_proxy))
                .transpose()
                .map_err(said)?,
        })
    }
}

fn credential(grant: &CredentialGrant) -> Result<Credential, GrantError> {
    let CredentialGrant { name, stub, secret, scope, clone_only: _ } = grant;
    let scope = match scope {
        CredentialScope::Hosts { hosts } => {
            Scope::Hosts(hosts.iter().map(|host| HostRule::parse(host)).collect::<Result<_, _>>().map_err(said)?)
        }
        CredentialScope::Gateway => Scope::Gateway,
        CredentialScope::Anywhere => Scope::Anywhere,
    };
    Ok(Credential { name: name.clone(), stub: stub.clone(), secret: Secret::new(secret.clone()), scope })
}

fn said(problem: impl std::fmt::Display) -> GrantError {
    GrantError(problem.to_string())
}

fn listed(problems: &[Problem]) -> GrantError {
    GrantError(
        problems.iter().map(|problem| format!("{}: {}", problem.field, problem.message)).collect::<Vec<_>>().join("; "),
    )
}

#[cfg(test)]
mod tests;
