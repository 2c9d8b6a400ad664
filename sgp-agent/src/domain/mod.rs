//! The pure core: facts in, plans out.
