//! Answers the CNI plugin on the unix socket (`protocol`).
