//! Where in a scenario something stands, as error messages name it: `Steps[3].packet.source_port`.

use std::fmt;

/// A path of keys and indices.
#[derive(Clone, Debug, Default)]
pub(super) struct Place(String);

impl Place {
    /// A key of the object that is here.
    pub(super) fn key(&self, key: &str) -> Self {
        Self(if self.0.is_empty() { key.to_owned() } else { format!("{}.{key}", self.0) })
    }

    /// An element of the array that is here.
    pub(super) fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// An error about what is here.
    pub(super) fn says(&self, why: &str) -> String {
        format!("{self}: {why}")
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
