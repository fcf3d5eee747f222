/// x
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Principal { /// a
pub tenant: String, /// b
 pub subject: String }
