//! Secrets that the gateway makes: keys, clients' ids and secrets; and what is kept of passwords.
//!
//! A secret lives here, in the one answer that creates it, and nowhere else.

use argon2::{Argon2, PasswordHasher};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proto::snapshot::{PasswordHash, SecretHash};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::Semaphore;

/// Hashing takes 19 MB and some 20 ms of a CPU; so many at a time.
const HASHING_MAX: usize = 2;
/// Bytes of a password, as a person would write one. Argon2 would take more; nobody's hand does.
pub const PASSWORD_BYTES_MAX: usize = 1024;

/// The system has no randomness, or no memory for a hash.
#[derive(Debug, thiserror::Error)]
#[error("the system has nothing to make a secret of: {0}")]
pub struct NoSecret(&'static str);

/// A secret in clear, and what is kept of it. `Debug` shows neither.
pub struct Made {
    /// To be told once.
    pub secret: String,
    /// To be kept.
    pub hash: SecretHash,
}

/// A new API key: `fgk_` and 43 characters.
pub fn api_key() -> Result<Made, NoSecret> {
    secret("fgk_")
}

/// A new client's secret: `fgs_` and 43 characters.
pub fn client_secret() -> Result<Made, NoSecret> {
    secret("fgs_")
}

/// A new client's id: `fgc_` and 22 characters.
pub fn client_id() -> Result<String, NoSecret> {
    Ok(format!("fgc_{}", URL_SAFE_NO_PAD.encode(random::<16>()?)))
}

fn secret(prefix: &str) -> Result<Made, NoSecret> {
    let secret = format!("{prefix}{}", URL_SAFE_NO_PAD.encode(random::<32>()?));
    let hash = SecretHash::of(&secret);
    Ok(Made { secret, hash })
}

fn random<const N: usize>() -> Result<[u8; N], NoSecret> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoSecret("no random bytes"))?;
    Ok(bytes)
}

/// What is kept of a password: Argon2id with the parameters of RFC 9106's second choice, as the library has them.
pub fn password_hash(password: &str) -> Result<PasswordHash, NoSecret> {
    let hash = Argon2::default().hash_password(password.as_bytes()).map_err(|_| NoSecret("no hash"))?;
    Ok(PasswordHash(hash.to_string()))
}

/// Makes hashes of passwords off the runtime's threads, few at a time.
pub struct Hashing(Semaphore);

impl Default for Hashing {
    fn default() -> Self {
        Self(Semaphore::new(HASHING_MAX))
    }
}

impl Hashing {
    /// Waits for its turn and hashes.
    pub async fn hash(&self, password: String) -> Result<PasswordHash, NoSecret> {
        let _turn = self.0.acquire().await.map_err(|_| NoSecret("no turn"))?;
        let hashing = tokio::task::spawn_blocking(move || password_hash(&password));
        hashing.await.map_err(|_| NoSecret("no hash"))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_have_their_form_and_are_never_the_same() {
        let (one, other) = (api_key().unwrap(), api_key().unwrap());
        assert!(one.secret.starts_with("fgk_") && one.secret.len() == 47);
        assert!(one.secret != other.secret && one.hash == SecretHash::of(&one.secret));
        assert!(client_secret().unwrap().secret.starts_with("fgs_"));
        assert_eq!(client_id().unwrap().len(), 26);
    }

    #[test]
    fn a_password_is_kept_as_an_argon2id_hash_that_knows_it_again() {
        use argon2::PasswordVerifier;
        let hash = password_hash("correct horse").unwrap();
        assert!(hash.0.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hash.0);
        assert!(Argon2::default().verify_password(b"correct horse", hash.0.as_str()).is_ok());
        assert!(Argon2::default().verify_password(b"wrong horse", hash.0.as_str()).is_err());
    }
}
