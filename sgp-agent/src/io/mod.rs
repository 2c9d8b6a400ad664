//! The imperative shell: everything that talks to the kernel, Kubernetes and EC2. Modules here do not import each other.

#[cfg(feature = "node")]
pub mod certificates;
#[cfg(feature = "node")]
pub mod ec2;
#[cfg(feature = "node")]
pub mod https;
pub mod kernel;
#[cfg(feature = "node")]
pub mod kubernetes;
pub mod netlink;
pub mod seclusion;
#[cfg(feature = "node")]
pub mod telemetry;
