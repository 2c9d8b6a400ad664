//! The imperative shell: everything that talks to the kernel, Kubernetes and EC2. Modules here do not import each other.

pub mod certificates;
pub mod ec2;
pub mod https;
pub mod kernel;
pub mod kubernetes;
pub mod netlink;
pub mod seclusion;
pub mod telemetry;
