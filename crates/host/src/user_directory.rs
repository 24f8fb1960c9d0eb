//! The directory in which vmshm's commands of one user leave each other notes: what a
//! listener has learned, what the last list saw. Only that user may enter it. A
//! directory of somebody else, or one that others may enter, is neither read nor
//! written; a link is not followed.

pub(crate) use crate::os::{
    NoteDirectory, candidates, create_private_file, is_ours_alone, make_private_directory,
    open_unlinked,
};
