//! Certificates that nobody else need make.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// How long before now a certificate holds: clocks differ.
pub const BACK: Duration = Duration::from_secs(3600);

/// A certificate, its key, and the authority that signed it. The authority's key is forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The authority's certificate, PEM.
    pub authority: String,
    /// The server's certificate, PEM.
    pub certificate: String,
    /// The server's private key, PEM (PKCS#8).
    pub key: String,
    /// End of both, in seconds since 1970.
    pub until_s: u64,
}

/// Makes a certificate for a server of these names, DNS names or addresses.
///
/// # Errors
/// Where a name is none.
pub fn make(names: &[String], lifetime: Duration) -> Result<Made> {
    let now = SystemTime::now();
    let (from, until) = (now - BACK, now + lifetime);
    let authority_key = KeyPair::generate().context("making the authority's key")?;
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.distinguished_name.push(DnType::CommonName, "sgp-agent controller's authority");
    (authority.not_before, authority.not_after) = (from.into(), until.into());
    let authority_certificate = authority.self_signed(&authority_key).context("signing the authority")?;
    let key = KeyPair::generate().context("making the server's key")?;
    let mut server = CertificateParams::new(names).with_context(|| format!("naming the server {names:?}"))?;
    server.distinguished_name.push(DnType::CommonName, "sgp-agent controller");
    (server.not_before, server.not_after) = (from.into(), until.into());
    let issuer = Issuer::from_params(&authority, &authority_key);
    let certificate = server.signed_by(&key, &issuer).context("signing the server's certificate")?;
    Ok(Made {
        authority: authority_certificate.pem(),
        certificate: certificate.pem(),
        key: key.serialize_pem(),
        until_s: until.duration_since(UNIX_EPOCH).context("reading the clock")?.as_secs(),
    })
}
