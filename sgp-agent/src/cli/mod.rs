//! Commands. Each only reads pinned maps, and so works with the agent dead; `run` and `cni` are the exceptions.
