//! Well-known credentials: the hosts that their issuers mean them for, and the places they stand in.

use crate::credential::HostRule;

/// Key or key prefix with `*`, and the entries as `env_var_hosts` would write them.
const CATALOGUE: &[(&[&str], &[&str])] = &[
    (
        &["GITHUB_TOKEN", "GH_TOKEN", "GITHUB_PAT", "GITHUB_PERSONAL_ACCESS_TOKEN"],
        &[
            "github.com",
            "api.github.com",
            "uploads.github.com",
            "raw.githubusercontent.com",
            "codeload.github.com",
            "objects.githubusercontent.com",
            "gist.github.com",
            "ghcr.io",
            "npm.pkg.github.com",
            "maven.pkg.github.com",
            "api.githubcopilot.com",
        ],
    ),
    (&["GITLAB_TOKEN", "GITLAB_PRIVATE_TOKEN", "GL_TOKEN"], &["gitlab.com", "registry.gitlab.com"]),
    (&["BITBUCKET_TOKEN", "BITBUCKET_ACCESS_TOKEN", "BITBUCKET_APP_PASSWORD"], &["bitbucket.org", "api.bitbucket.org"]),
    (&["OPENAI_API_KEY"], &["api.openai.com", "*.api.openai.com"]),
    (&["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"], &["api.anthropic.com"]),
    (
        &["GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GENERATIVE_AI_API_KEY"],
        &["generativelanguage.googleapis.com#query"],
    ),
    (&["OPENROUTER_API_KEY"], &["openrouter.ai"]),
    (&["MISTRAL_API_KEY"], &["api.mistral.ai"]),
    (&["GROQ_API_KEY"], &["api.groq.com"]),
    (&["DEEPSEEK_API_KEY"], &["api.deepseek.com"]),
    (&["COHERE_API_KEY", "CO_API_KEY"], &["api.cohere.com", "api.cohere.ai"]),
    (&["TOGETHER_API_KEY"], &["api.together.xyz", "api.together.ai"]),
    (&["FIREWORKS_API_KEY"], &["api.fireworks.ai"]),
    (&["XAI_API_KEY"], &["api.x.ai"]),
    (&["HF_TOKEN", "HUGGINGFACE_TOKEN", "HUGGING_FACE_HUB_TOKEN"], &["huggingface.co", "*.huggingface.co", "*.hf.co"]),
    (&["NPM_TOKEN", "NODE_AUTH_TOKEN"], &["registry.npmjs.org"]),
    (&["PYPI_TOKEN", "PYPI_API_TOKEN", "TWINE_PASSWORD", "UV_PUBLISH_TOKEN"], &["upload.pypi.org", "test.pypi.org"]),
    (&["CARGO_REGISTRY_TOKEN"], &["crates.io"]),
    (&["RUBYGEMS_API_KEY", "GEM_HOST_API_KEY"], &["rubygems.org"]),
    (
        &["DOCKER_TOKEN", "DOCKERHUB_TOKEN", "DOCKER_PASSWORD"],
        &["auth.docker.io", "registry-1.docker.io", "hub.docker.com#body"],
    ),
    (&["SLACK_TOKEN", "SLACK_BOT_TOKEN", "SLACK_USER_TOKEN", "SLACK_APP_TOKEN"], &["slack.com#body", "*.slack.com"]),
    (&["DISCORD_TOKEN", "DISCORD_BOT_TOKEN"], &["discord.com", "gateway.discord.gg#ws"]),
    (&["TELEGRAM_TOKEN", "TELEGRAM_BOT_TOKEN"], &["api.telegram.org#path"]),
    (&["LINEAR_API_KEY", "LINEAR_TOKEN"], &["api.linear.app"]),
    (&["NOTION_TOKEN", "NOTION_API_KEY"], &["api.notion.com"]),
    (&["FIGMA_TOKEN", "FIGMA_API_KEY"], &["api.figma.com"]),
    (&["SENTRY_AUTH_TOKEN"], &["sentry.io", "*.sentry.io"]),
    (&["DATADOG_API_KEY", "DD_API_KEY", "DD_APP_KEY"], &["*.datadoghq.com", "*.datadoghq.eu"]),
    (&["PAGERDUTY_TOKEN", "PAGERDUTY_API_KEY"], &["api.pagerduty.com"]),
    (&["STRIPE_API_KEY", "STRIPE_SECRET_KEY"], &["api.stripe.com", "files.stripe.com"]),
    (&["TWILIO_AUTH_TOKEN"], &["*.twilio.com"]),
    (&["SENDGRID_API_KEY"], &["api.sendgrid.com"]),
    (&["VERCEL_TOKEN"], &["api.vercel.com"]),
    (&["NETLIFY_AUTH_TOKEN"], &["api.netlify.com"]),
    (&["CLOUDFLARE_API_TOKEN", "CF_API_TOKEN"], &["api.cloudflare.com"]),
    (&["DIGITALOCEAN_TOKEN", "DIGITALOCEAN_ACCESS_TOKEN"], &["api.digitalocean.com"]),
    (&["HEROKU_API_KEY"], &["api.heroku.com"]),
    (&["FLY_API_TOKEN"], &["api.fly.io", "api.machines.dev"]),
    (&["SUPABASE_ACCESS_TOKEN"], &["api.supabase.com"]),
    (&["BRAVE_API_KEY", "BRAVE_SEARCH_API_KEY"], &["api.search.brave.com"]),
    (&["TAVILY_API_KEY"], &["api.tavily.com#body"]),
    (&["EXA_API_KEY"], &["api.exa.ai"]),
    // The secret key never travels: the vault signs with it, toward these hosts.
    (&["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"], &["*.amazonaws.com", "*.api.aws"]),
];

/// The rules of a well-known key; none for a key that nobody knows.
pub fn rules_for(key: &str) -> Option<Vec<HostRule>> {
    let (_, entries) = CATALOGUE.iter().find(|(keys, _)| keys.contains(&key))?;
    Some(
        entries
            .iter()
            .map(|entry| HostRule::parse(entry).expect("catalogue entries are well-formed (tested)"))
            .collect(),
    )
}

/// Whether a key names a secret that signs requests to AWS, or to services that copy its signatures. It never travels: the
/// vault signs with it.
pub fn signs_aws(key: &str) -> bool {
    key.to_ascii_uppercase().ends_with("SECRET_ACCESS_KEY")
}

/// Whether a key names what travels beside such a signature and is of no use without the secret.
pub fn stands_by_aws_signature(key: &str) -> bool {
    let key = key.to_ascii_uppercase();
    ["ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"].iter().any(|end| key.ends_with(end))
}

/// Whether a key names a credential that signs in ways the vault does not know: neither travels its value, nor can the vault
/// sign with it.
pub fn is_signing_key(key: &str) -> bool {
    let key = key.to_ascii_uppercase();
    key.ends_with("_PRIVATE_KEY")
        || key.ends_with("_SIGNING_KEY")
        || key.ends_with("_SIGNING_SECRET")
        || key.ends_with("_HMAC_KEY")
        || key.ends_with("_HMAC_SECRET")
        || key.ends_with("_PEM")
        || key == "SSH_KEY"
}

#[cfg(test)]
#[path = "catalogue/tests.rs"]
mod tests;
