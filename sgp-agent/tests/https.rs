//! The webhooks' HTTPS: a certificate that is renewed, by ourselves or by cert-manager, is shown from the next handshake on.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use sgp_agent::io::certificates::{Made, make};
use sgp_agent::io::https::{Certificate, Handler, serve};

const NAME: &str = "sgp-controller.kube-system.svc";

fn made() -> Made {
    make(&[NAME.to_owned()], Duration::from_secs(3600)).expect("a certificate")
}

/// A server on a port of this machine's choice.
async fn started(certificate: &Arc<Certificate>) -> SocketAddr {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let handler: Handler = Arc::new(|path, _| Box::pin(async move { (hyper::StatusCode::OK, path) }));
    tokio::spawn(serve(address, Arc::clone(certificate), handler));
    while TcpStream::connect(address).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    address
}

/// Shakes hands as an API server does that believes this authority.
async fn believing(address: SocketAddr, authority: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).expect("PEM")).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("TLS versions").with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(NAME).expect("a name"), stream).await
}

async fn answer(stream: &mut TlsStream<TcpStream>) -> String {
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("a request");
    let mut buffer = [0; 1024];
    let length = stream.read(&mut buffer).await.expect("an answer");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_from_the_next_handshake_on_and_connections_live_on() {
    let (first, second) = (made(), made());
    let certificate = Arc::new(Certificate::default());
    let address = started(&certificate).await;
    assert!(believing(address, &first.authority).await.is_err(), "there is no certificate yet");
    certificate.set(&first.certificate, &first.key).expect("the first");
    let mut old = believing(address, &first.authority).await.expect("a handshake with the first");
    certificate.set(&second.certificate, &second.key).expect("the second");
    assert!(believing(address, &first.authority).await.is_err(), "whoever believes the first alone");
    let mut new = believing(address, &second.authority).await.expect("a handshake with the second");
    for stream in [&mut old, &mut new] {
        assert!(answer(stream).await.starts_with("HTTP/1.1 200 OK"));
    }
}

#[tokio::test]
async fn a_certificate_that_is_none_leaves_the_one_in_use() {
    let (good, other) = (made(), made());
    let certificate = Arc::new(Certificate::default());
    let address = started(&certificate).await;
    certificate.set(&good.certificate, &good.key).expect("a certificate");
    for (chain, key, word) in [
        ("nonsense", good.key.as_str(), "certificate"),
        (good.certificate.as_str(), "nonsense", "private key"),
        (good.certificate.as_str(), other.key.as_str(), "together"),
    ] {
        let error = format!("{:#}", certificate.set(chain, key).expect_err("no certificate"));
        assert!(error.contains(word), "{error}");
    }
    believing(address, &good.authority).await.expect("a handshake all the same");
}
