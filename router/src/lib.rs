//! From a mesh to its owner.
