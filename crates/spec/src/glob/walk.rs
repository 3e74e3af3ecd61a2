//! Driving a match directory by directory.

use super::flat::State;
use super::{Engine, Glob};

/// A match that has come as far as one directory; start with [`Glob::walk`].
///
/// A tree walk visits the children of the directory with [`Walk::visit`], which says whether a child
/// matches and gives the walk to continue with below it, or nothing when no path below can match.
#[derive(Debug, Clone)]
pub struct Walk<'g> {
    glob: &'g Glob,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    /// The state after the directory's path.
    Flat(State),
    /// The directory's path and its number of components.
    Path(String, usize),
}

/// What a walk says about one child.
#[derive(Debug, Clone)]
pub struct Visit<'g> {
    /// Whether the child itself matches.
    pub is_match: bool,
    /// The walk below the child; `None` when nothing below it can match.
    pub below: Option<Walk<'g>>,
}

impl<'g> Walk<'g> {
    pub(super) fn root(glob: &'g Glob) -> Self {
        let place = match &glob.engine {
            Engine::Flat(flat, _) => Place::Flat(flat.start()),
            Engine::Program(_) => Place::Path(String::new(), 0),
        };
        Self { glob, place }
    }

    /// Looks at the child `name` of this directory.
    pub fn visit(&self, name: &str) -> Visit<'g> {
        let glob = self.glob;
        match (&self.place, &glob.engine) {
            (Place::Flat(state), Engine::Flat(flat, _)) => {
                let state = flat.advance(flat.advance(*state, "/"), name);
                let alive = flat.advance(state, "/") != 0;
                let below = alive.then_some(Self { glob, place: Place::Flat(state) });
                Visit { is_match: flat.accepts(state), below }
            }
            (Place::Path(path, depth), _) => {
                let path = format!("{path}/{name}");
                let deeper = glob.max_depth.is_none_or(|most| depth + 1 < most) && glob.fits_prefix(&path);
                let is_match = glob.is_match(&path);
                let below = deeper.then(|| Self { glob, place: Place::Path(path, depth + 1) });
                Visit { is_match, below }
            }
            // A walk is made for the engine of its glob.
            (Place::Flat(_), Engine::Program(_)) => Visit { is_match: false, below: None },
        }
    }
}
