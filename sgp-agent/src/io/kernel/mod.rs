//! BPF programs, maps and links: read `Installed`, apply node steps.
