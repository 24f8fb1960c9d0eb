//! Where pictures go: a [`window`], one [`picture`] in a file, or [`nowhere`].

pub mod nowhere;
pub mod picture;
pub mod window;

/// Why a sink could not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub message: String,
    /// What would help.
    pub hint: Option<String>,
}

impl Failure {
    /// Without anything that would help.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }
}
