use std::fmt;

use aws_lc_rs::{
    digest::{SHA1_FOR_LEGACY_USE_ONLY, digest},
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    rsa::{KeyPair, KeySize},
    signature::KeyPair as _,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use pem::Pem;
use serde_json::{Value, json};

use crate::jwt::{self, Jwt};

/// The tenant's keys: one signs, those before it are published still.
pub(crate) struct SigningKeys {
    current: SigningKey,
    former: Vec<SigningKey>,
}

impl SigningKeys {
    pub(crate) fn new(current: SigningKey) -> Self {
        Self { current, former: Vec::new() }
    }

    pub(crate) fn current(&self) -> &SigningKey {
        &self.current
    }

    pub(crate) fn rotate(&mut self) {
        let former = std::mem::replace(&mut self.current, SigningKey::generate());
        self.former.push(former);
    }

    pub(crate) fn withdraw_former(&mut self) {
        self.former.clear();
    }

    pub(crate) fn published(&self) -> impl Iterator<Item = &SigningKey> {
        std::iter::once(&self.current).chain(&self.former)
    }

    /// Whether a published key made this signature. Entra signs with RS256 only.
    pub(crate) fn signed(&self, token: &Jwt) -> bool {
        token.header["alg"] == "RS256"
            && self.published().any(|key| {
                token.header["kid"] == *key.id && token.is_signed_by(&key.public, Algorithm::RS256)
            })
    }
}

#[derive(Clone)]
/// An RSA key pair of 2048 bits with its key id.
pub(crate) struct SigningKey {
    pub(crate) id: String,
    modulus: String,
    exponent: String,
    /// PKCS#8.
    pem: String,
    /// SubjectPublicKeyInfo.
    public_pem: String,
    private: EncodingKey,
    public: DecodingKey,
}

impl SigningKey {
    pub(crate) fn generate() -> Self {
        let pair = KeyPair::generate(KeySize::Rsa2048).expect("the system has memory and entropy");
        let pkcs8: Pkcs8V1Der = pair.as_der().expect("a generated key can be encoded");
        let pem = pem::encode(&Pem::new("PRIVATE KEY", pkcs8.as_ref()));
        Self::of(&pair, pem)
    }

    /// `None` if `pem` is not an RSA key in PKCS#8.
    pub(crate) fn from_pem(pem: String) -> Option<Self> {
        let pkcs8 = pem::parse(&pem).ok()?;
        let pair = KeyPair::from_pkcs8(pkcs8.contents()).ok()?;
        Some(Self::of(&pair, pem))
    }

    fn of(pair: &KeyPair, pem: String) -> Self {
        let public = pair.public_key();
        let modulus =
            BASE64_URL_SAFE_NO_PAD.encode(public.modulus().big_endian_without_leading_zero());
        let exponent =
            BASE64_URL_SAFE_NO_PAD.encode(public.exponent().big_endian_without_leading_zero());
        let info: PublicKeyX509Der = public.as_der().expect("a public key can be encoded");
        Self {
            id: BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, info.as_ref())),
            public_pem: pem::encode(&Pem::new("PUBLIC KEY", info.as_ref())),
            private: EncodingKey::from_rsa_pem(pem.as_bytes()).expect("PKCS#8 of an RSA key"),
            public: DecodingKey::from_rsa_components(&modulus, &exponent)
                .expect("base64url, encoded above"),
            modulus,
            exponent,
            pem,
        }
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    #[cfg(test)]
    pub(crate) fn public_key(&self) -> &DecodingKey {
        &self.public
    }

    pub(crate) fn header(&self) -> Value {
        json!({ "typ": "JWT", "alg": "RS256", "kid": self.id })
    }

    /// Signs as `header.alg` says: `RS256`, `PS256`, `none` (empty signature), or `HS256` with the
    /// public key's PEM as secret, as in an algorithm confusion attack. Anything else: as `RS256`.
    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        match header["alg"].as_str() {
            Some("none") => jwt::sign(header, claims, None),
            Some("HS256") => {
                let secret = EncodingKey::from_secret(self.public_pem.as_bytes());
                jwt::sign(header, claims, Some((&secret, Algorithm::HS256)))
            }
            Some("PS256") => jwt::sign(header, claims, Some((&self.private, Algorithm::PS256))),
            _ => jwt::sign(header, claims, Some((&self.private, Algorithm::RS256))),
        }
    }

    /// Entry of the key set (RFC 7517), with Entra's thumbprint and without `alg`, as there.
    pub(crate) fn entry(&self) -> Value {
        json!({
            "kty": "RSA", "use": "sig", "kid": self.id, "x5t": self.id,
            "n": self.modulus, "e": self.exponent,
        })
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SigningKey").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_read_from_its_pem_is_the_same_key() {
        let key = SigningKey::generate();
        let read = SigningKey::from_pem(key.pem().to_owned()).unwrap();
        let token = read.sign(&read.header(), &json!({}));
        assert!(SigningKeys::new(key).signed(&Jwt::parse(&token).unwrap()));
    }

    #[test]
    fn a_former_key_is_good_until_it_is_withdrawn() {
        let mut keys = SigningKeys::new(SigningKey::generate());
        let token = keys.current().sign(&keys.current().header(), &json!({}));
        let token = Jwt::parse(&token).unwrap();
        keys.rotate();
        assert!(keys.signed(&token));
        keys.withdraw_former();
        assert!(!keys.signed(&token));
    }

    #[test]
    fn forged_algorithms_are_not_taken_for_a_signature() {
        let keys = SigningKeys::new(SigningKey::generate());
        for algorithm in ["none", "HS256", "PS256"] {
            let header = json!({ "alg": algorithm, "kid": keys.current().id });
            let token = keys.current().sign(&header, &json!({}));
            assert!(!keys.signed(&Jwt::parse(&token).unwrap()), "{algorithm}");
        }
    }
}
