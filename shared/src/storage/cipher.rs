//! Encryption at rest: tokens and the users' data. In clear stand whose a row is, names, tags,
//! states and times.
//!
//! Envelope: `1` (format) · length of the key id · key id · nonce (12 bytes) · ciphertext and tag.
//! AES-256-GCM-SIV (RFC 8452), because random nonces under one long-lived AES-GCM key run out.

use std::{collections::HashMap, fmt, sync::Arc};

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, Nonce, RandomizedNonceKey},
    hkdf, hmac,
};
use secrecy::ExposeSecret;

use crate::{config::EncryptionConfig, identity::Principal};

const FORMAT: u8 = 1;
const NONCE_BYTES: usize = 12;

/// Where an encrypted value lives. It is authenticated with the value: moved to another row, column
/// or owner the value does not decrypt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) table: &'static str,
    pub(super) column: &'static str,
    pub(super) row: uuid::Uuid,
    /// Which of several values of that column and row; empty where there is one.
    pub(super) parts: [&'a str; 2],
    pub(super) principal: &'a Principal,
}

impl Place<'_> {
    /// Each part is preceded by its length, so that no two places give the same bytes.
    fn to_bytes(self) -> Vec<u8> {
        let parts: [&[u8]; 7] = [
            self.table.as_bytes(),
            self.row.as_bytes(),
            self.column.as_bytes(),
            self.principal.tenant.as_bytes(),
            self.principal.subject.as_bytes(),
            self.parts[0].as_bytes(),
            self.parts[1].as_bytes(),
        ];
        let mut bytes = Vec::with_capacity(192);
        for part in parts {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        bytes
    }
}

/// A stored value that no configured key opens.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CipherError {
    /// The ring lacks the key: an operator removed it too early, or two processes differ.
    #[error("the key `{0}` that it was encrypted with is not configured under `encryption.keys`")]
    UnknownKey(String),
    /// Wrong key under the right id, a damaged value, or a value moved from another row.
    #[error("it was changed, or moved from another row, or encrypted with another key of this id")]
    NotAuthentic,
    /// Not an envelope at all.
    #[error("it is not in a format this version knows")]
    UnknownFormat,
}

/// The key ring at work: the first key encrypts, all decrypt.
#[derive(Clone)]
pub(super) struct Cipher(Arc<Ring>);

struct Ring {
    first: String,
    keys: HashMap<String, Key>,
}

struct Key {
    seal: RandomizedNonceKey,
    fingerprint: hmac::Key,
}

impl fmt::Debug for Cipher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Cipher({})", self.0.first)
    }
}

impl Cipher {
    pub(super) fn new(config: &EncryptionConfig) -> Self {
        let keys = config
            .keys
            .iter()
            .map(|key| (key.id.clone(), Key::derive(key.key.expose_secret())))
            .collect();
        let first = config.keys.first().expect("configuration refuses an empty key ring");
        Self(Arc::new(Ring { first: first.id.clone(), keys }))
    }

    pub(super) fn seal(&self, place: Place<'_>, plaintext: &[u8]) -> Vec<u8> {
        let key = &self.0.keys[&self.0.first];
        let mut sealed = plaintext.to_vec();
        let nonce = key
            .seal
            .seal_in_place_append_tag(Aad::from(place.to_bytes()), &mut sealed)
            .expect("a plaintext in memory is far below the limit of 64 GiB");
        let mut envelope = self.header();
        envelope.reserve(NONCE_BYTES + sealed.len());
        envelope.extend_from_slice(nonce.as_ref());
        envelope.append(&mut sealed);
        envelope
    }

    pub(super) fn open(&self, place: Place<'_>, envelope: &[u8]) -> Result<Vec<u8>, CipherError> {
        let (key, rest) = self.split(envelope)?;
        let (nonce, sealed) =
            rest.split_at_checked(NONCE_BYTES).ok_or(CipherError::UnknownFormat)?;
        let nonce =
            Nonce::try_assume_unique_for_key(nonce).map_err(|_| CipherError::UnknownFormat)?;
        let mut opened = sealed.to_vec();
        let length = key
            .seal
            .open_in_place(nonce, Aad::from(place.to_bytes()), &mut opened)
            .map_err(|_| CipherError::NotAuthentic)?
            .len();
        opened.truncate(length);
        Ok(opened)
    }

    /// Returns a keyed hash of `content`, to recognise it again without keeping it.
    pub(super) fn fingerprint(&self, content: &[u8]) -> Vec<u8> {
        let key = &self.0.keys[&self.0.first];
        let mut fingerprint = self.header();
        fingerprint.extend_from_slice(hmac::sign(&key.fingerprint, content).as_ref());
        fingerprint
    }

    pub(super) fn matches(&self, fingerprint: &[u8], content: &[u8]) -> Result<bool, CipherError> {
        let (key, tag) = self.split(fingerprint)?;
        Ok(hmac::verify(&key.fingerprint, content, tag).is_ok())
    }

    /// What begins all that the first key encrypts, and nothing else.
    pub(super) fn header(&self) -> Vec<u8> {
        let id = self.0.first.as_bytes();
        let length = u8::try_from(id.len()).expect("configuration refuses key ids over 32 bytes");
        let mut header = vec![FORMAT, length];
        header.extend_from_slice(id);
        header
    }

    fn split<'e>(&self, envelope: &'e [u8]) -> Result<(&Key, &'e [u8]), CipherError> {
        let [FORMAT, length, rest @ ..] = envelope else {
            return Err(CipherError::UnknownFormat);
        };
        let (id, rest) =
            rest.split_at_checked(usize::from(*length)).ok_or(CipherError::UnknownFormat)?;
        let id = std::str::from_utf8(id).map_err(|_| CipherError::UnknownFormat)?;
        let key = self.0.keys.get(id).ok_or_else(|| CipherError::UnknownKey(id.to_owned()))?;
        Ok((key, rest))
    }
}

impl Key {
    /// One configured key has two uses; each gets a key of its own (RFC 5869).
    fn derive(key: &[u8]) -> Self {
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, b"errand storage").extract(key);
        let expand = |purpose: &'static [u8]| {
            let mut derived = [0; 32];
            extracted
                .expand(&[purpose], hkdf::HKDF_SHA256)
                .and_then(|output| output.fill(&mut derived))
                .expect("32 bytes are one block of HKDF-SHA-256");
            derived
        };
        Self {
            seal: RandomizedNonceKey::new(&AES_256_GCM_SIV, &expand(b"seal"))
                .expect("AES-256 takes 32 bytes"),
            fingerprint: hmac::Key::new(hmac::HMAC_SHA256, &expand(b"fingerprint")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::config::EncryptionKey;

    fn ring(ids: &[&str]) -> Cipher {
        let keys = ids
            .iter()
            .map(|id| EncryptionKey {
                id: (*id).to_owned(),
                key: vec![id.as_bytes()[0]; 32].into(),
            })
            .collect();
        Cipher::new(&EncryptionConfig { keys })
    }

    fn alice() -> Principal {
        Principal { tenant: "t".into(), subject: "alice".into() }
    }

    fn place(principal: &Principal) -> Place<'_> {
        Place { table: "jobs", column: "input", row: Uuid::nil(), parts: [""; 2], principal }
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_only_in_its_place(content: Vec<u8>) {
            let (cipher, alice) = (ring(&["a"]), alice());
            let bob = Principal { subject: "bob".into(), ..alice.clone() };
            let sealed = cipher.seal(place(&alice), &content);
            prop_assert_eq!(cipher.open(place(&alice), &sealed).unwrap(), content);
            for elsewhere in [
                place(&bob),
                Place { row: Uuid::max(), ..place(&alice) },
                Place { column: "output", ..place(&alice) },
                Place { table: "sessions", ..place(&alice) },
                Place { parts: ["PartnerAPI", ""], ..place(&alice) },
                Place { parts: ["", "PartnerAPI"], ..place(&alice) },
            ] {
                prop_assert_eq!(cipher.open(elsewhere, &sealed), Err(CipherError::NotAuthentic));
            }
        }

        #[test]
        fn any_bytes_are_refused_without_a_panic(envelope: Vec<u8>) {
            prop_assert!(ring(&["a"]).open(place(&alice()), &envelope).is_err());
            prop_assert!(!ring(&["a"]).matches(&envelope, b"x").unwrap_or(false));
        }
    }

    #[test]
    fn the_boundary_between_tenant_and_subject_counts() {
        let cipher = ring(&["a"]);
        let one = Principal { tenant: "ab".into(), subject: "c".into() };
        let other = Principal { tenant: "a".into(), subject: "bc".into() };
        let sealed = cipher.seal(place(&one), b"x");
        assert_eq!(cipher.open(place(&other), &sealed), Err(CipherError::NotAuthentic));
    }

    #[test]
    fn an_older_key_still_opens_and_a_missing_one_is_named() {
        let sealed = ring(&["old"]).seal(place(&alice()), b"x");
        assert_eq!(ring(&["new", "old"]).open(place(&alice()), &sealed).unwrap(), b"x");
        assert_eq!(
            ring(&["new"]).open(place(&alice()), &sealed),
            Err(CipherError::UnknownKey("old".into()))
        );
    }

    #[test]
    fn a_fingerprint_recognises_its_content_after_a_rotation() {
        let fingerprint = ring(&["old"]).fingerprint(b"body");
        let rotated = ring(&["new", "old"]);
        assert!(rotated.matches(&fingerprint, b"body").unwrap());
        assert!(!rotated.matches(&fingerprint, b"other").unwrap());
    }
}
