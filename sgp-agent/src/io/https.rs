//! Answers HTTPS with a certificate that may change at any time.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

/// The longest body that is read: etcd takes objects of 1.5 MiB, and a review holds two.
const BODY_MAX: usize = 8 << 20;
/// How long a client may take for its handshake.
const PATIENCE: Duration = Duration::from_secs(10);

/// Status and body of an answer.
pub type Reply = (StatusCode, String);
/// Answers the path and body of a request.
pub type Handler = Arc<dyn Fn(String, Bytes) -> BoxFuture<'static, Reply> + Send + Sync>;

/// The certificate in use; there is none at first, and handshakes fail.
#[derive(Debug, Default)]
pub struct Certificate(RwLock<Option<Arc<CertifiedKey>>>);

impl Certificate {
    /// Uses this one from the next handshake on.
    ///
    /// # Errors
    /// Where chain or key are no PEM, or the key does not fit.
    pub fn set(&self, chain: &str, key: &str) -> Result<()> {
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>();
        let chain = chain.context("reading the certificate")?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).context("reading the private key")?;
        let certified = CertifiedKey::from_der(chain, key, &ring::default_provider());
        let certified = certified.context("putting certificate and private key together")?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certified));
        Ok(())
    }

    /// Whether there is one.
    pub fn is_there(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Serves for as long as the process lives.
///
/// # Errors
/// Where the address cannot be listened on.
pub async fn serve(address: SocketAddr, certificate: Arc<Certificate>, handler: Handler) -> Result<()> {
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("choosing TLS versions")?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address} (--bind)"))?;
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let (acceptor, handler) = (acceptor.clone(), Arc::clone(&handler));
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, acceptor, handler).await {
                        debug!(%from, error = format!("{error:#}"), "a connection broke off");
                    }
                });
            }
            // Out of file descriptors, most likely: connections that end give some back.
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, acceptor: TlsAcceptor, handler: Handler) -> Result<()> {
    let stream = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await.context("waiting for a handshake")?;
    let stream = stream.context("shaking hands")?;
    let service = service_fn(|request: Request<Incoming>| {
        let handler = Arc::clone(&handler);
        async move { Ok::<_, Infallible>(respond(request, handler).await) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(90));
    server.serve_connection(TokioIo::new(stream), service).await.context("talking HTTP")
}

async fn respond(request: Request<Incoming>, handler: Handler) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let (status, text) = match Limited::new(request.into_body(), BODY_MAX).collect().await {
        Ok(body) => handler(path, body.to_bytes()).await,
        Err(error) => (StatusCode::BAD_REQUEST, format!("reading the request: {error}")),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        hyper::header::CONTENT_TYPE,
        hyper::header::HeaderValue::from_static(if status == StatusCode::OK {
            "application/json"
        } else {
            "text/plain"
        }),
    );
    response
}
