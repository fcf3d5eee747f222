use secrecy::{SecretString, ExposeSecret};
macro_rules! s { ($n:ident) => { 
/// x
#[derive(Debug, Clone)] pub struct $n(SecretString);
impl $n { /// x
pub fn new(s: String) -> Self { Self(s.into()) } 
/// x
pub fn expose(&self) -> &str { self.0.expose_secret() } } } }
s!(UserAssertion); s!(AccessToken); s!(RefreshToken);
/// x
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AssertionHash(pub [u8;32]);
impl AssertionHash { /// x
pub fn as_bytes(&self) -> &[u8] { &self.0 } }

impl AssertionHash { /// x
pub fn from_bytes(b: &[u8]) -> Option<Self> { b.try_into().ok().map(Self) } }
