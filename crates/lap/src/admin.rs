//! `lap admin`: work on the data folder that needs no server, or must not have one.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use lap_domain::chain::chain;
use lap_domain::secret::Secret;
use lap_store::{DataLock, EncryptionKey, KeyId};

use crate::{config, keys, out, serve};

/// Flags of `lap admin`.
#[derive(Args)]
pub struct AdminArgs {
    #[command(subcommand)]
    command: AdminCommand,
    /// Data folder of the server
    #[arg(long, env = "LAP_DATA_DIR", value_name = "FOLDER", global = true)]
    data_dir: Option<PathBuf>,
}

#[derive(Subcommand)]
enum AdminCommand {
    /// Encrypt everything secret in the database again with a new key; the server must be stopped
    ///
    /// The new key is made and takes the place of encryption.key once every value is encrypted with it. Where the key comes
    /// from LAP_ENCRYPTION_KEY, the new one is taken from LAP_ENCRYPTION_KEY_NEW. Sandboxes go on meanwhile. A rotation that
    /// was interrupted is finished by running it again.
    RotateKey(RotateArgs),
}

#[derive(Args)]
struct RotateArgs {
    #[arg(skip = config::secret("LAP_ENCRYPTION_KEY"))]
    current: Option<Secret>,
    #[arg(skip = config::secret("LAP_ENCRYPTION_KEY_NEW"))]
    new: Option<Secret>,
}

/// 0 when it worked, 1 when it did not, 2 for configuration that cannot be used.
pub async fn run(args: AdminArgs) -> ExitCode {
    let Some(data_dir) = args.data_dir.or_else(config::default_data_dir) else {
        eprintln!("lap admin: there is no home folder; name a data folder with --data-dir");
        return ExitCode::from(2);
    };
    let AdminCommand::RotateKey(RotateArgs { current, new }) = args.command;
    let done = match (current, new) {
        (None, None) => rotate_kept(&data_dir).await,
        (Some(current), Some(new)) => match (keys::encryption_key(&current), keys::encryption_key(&new)) {
            (Ok(current), Ok(new)) => rotate_given(&data_dir, &current, &new).await,
            (Err(problem), _) => return unusable(&format!("LAP_ENCRYPTION_KEY: {problem}")),
            (_, Err(problem)) => return unusable(&format!("LAP_ENCRYPTION_KEY_NEW: {problem}")),
        },
        (Some(_), None) => {
            return unusable(
                "the key comes from LAP_ENCRYPTION_KEY: give the new one in LAP_ENCRYPTION_KEY_NEW (64 hexadecimal digits)",
            );
        }
        (None, Some(_)) => return unusable("LAP_ENCRYPTION_KEY_NEW is set, but LAP_ENCRYPTION_KEY is not"),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("lap admin rotate-key: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn unusable(problem: &str) -> ExitCode {
    eprintln!("lap admin rotate-key: {problem}");
    ExitCode::from(2)
}

/// From the key in the data folder to a new one in its place.
async fn rotate_kept(data_dir: &Path) -> Result<(), String> {
    let (_lock, written_with) = alone(data_dir).await?;
    let unusable = |cause: std::io::Error| format!("could not use the encryption key: {cause}");
    if keys::finish_rotation(data_dir, Some(written_with)).map_err(unusable)? {
        out::line(format!("finished the rotation that was interrupted: the key is now {written_with}"));
        return Ok(());
    }
    let old = keys::encryption(data_dir, None).map_err(unusable)?;
    let new = keys::next_encryption(data_dir).map_err(unusable)?;
    let values = encrypt_again(data_dir, &old, &new).await?;
    keys::finish_rotation(data_dir, Some(new.id())).map_err(unusable)?;
    let file = keys::encryption_key_file(data_dir);
    out::line(format!(
        "{values} values encrypted again; {} holds the new key {}: back it up",
        file.display(),
        new.id()
    ));
    out::line(format!("backups of the database made before need the old key {}", old.id()));
    Ok(())
}

/// From one key of the operator's to another.
async fn rotate_given(data_dir: &Path, old: &EncryptionKey, new: &EncryptionKey) -> Result<(), String> {
    let (_lock, written_with) = alone(data_dir).await?;
    if written_with == new.id() {
        out::line(format!("the database is encrypted with key {written_with} already: put it into LAP_ENCRYPTION_KEY"));
        return Ok(());
    }
    let values = encrypt_again(data_dir, old, new).await?;
    out::line(format!("{values} values encrypted again with key {}: put it into LAP_ENCRYPTION_KEY", new.id()));
    out::line(format!("backups of the database made before need the old key {}", old.id()));
    Ok(())
}

/// The data folder for us alone, and the key its database was written with.
async fn alone(data_dir: &Path) -> Result<(DataLock, KeyId), String> {
    let database = serve::database(data_dir);
    if !database.exists() {
        return Err(format!("there is no database in {}; name the data folder with --data-dir", data_dir.display()));
    }
    let lock = DataLock::acquire(data_dir);
    let lock = lock.map_err(|problem| format!("{}; stop it first (sandboxes go on meanwhile)", chain(&problem)))?;
    let written_with = lap_store::key_of(&database).await.map_err(|problem| chain(&problem))?;
    let written_with = written_with.ok_or_else(|| format!("{} is no database of LAP", database.display()))?;
    Ok((lock, written_with))
}

async fn encrypt_again(data_dir: &Path, old: &EncryptionKey, new: &EncryptionKey) -> Result<u64, String> {
    let database = serve::database(data_dir);
    out::line(format!("encrypting {} again: key {} becomes {}", database.display(), old.id(), new.id()));
    let told = |done| out::line(format!("{done} values done"));
    lap_store::rotate(&database, old, new, told).await.map_err(|problem| {
        format!("the rotation is not done: {}; nothing is lost, the old key stays until it is", chain(&problem))
    })
}
