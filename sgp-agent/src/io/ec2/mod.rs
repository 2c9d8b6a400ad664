//! EC2: what it says of interfaces, groups and prefix lists, and the calls that make trunk and branches.

mod account;
mod convert;
mod describe;
mod members;
mod steps;

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};
use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_ec2::Client;
use aws_sdk_ec2::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};

pub use account::Account;

use crate::domain::answers::Answer;
use crate::domain::branches::CloudStep;
use crate::domain::failure::{self, Failure, FailureKind};
use crate::domain::instance_types::Table;
use crate::domain::observed::{CloudFacts, Instance, Wanted};

/// The longest one call may take, retries included: a call that never ends would hold its object for good.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// Where facts about the cloud come from and cloud steps go: EC2, or a model of it in tests.
pub trait Cloud: Send + Sync + 'static {
    /// Everything this node needs to know.
    fn facts(&self, wanted: &Wanted) -> impl Future<Output = Result<CloudFacts>> + Send;
    /// Takes one step: one call.
    fn apply(&self, step: &CloudStep) -> impl Future<Output = Result<Answer, Failure>> + Send;
}

/// EC2, for one instance.
pub struct Ec2 {
    /// Reads; the SDK repeats what fails on the way.
    reader: Client,
    /// Changes things; never repeats by itself, since the loop knows when.
    writer: Client,
    instance: Instance,
    trunk_account: Option<String>,
}

impl Ec2 {
    /// Finds out where this instance stands. Endpoint, region and credentials are the SDK's own settings
    /// (`AWS_ENDPOINT_URL`, `AWS_REGION`, …, or the instance's role). `trunk_account`: whose permissions to
    /// attach are described.
    ///
    /// # Errors
    /// Where EC2 cannot be reached or does not know the instance.
    pub async fn connect(instance_id: &str, types: &Table, trunk_account: Option<String>) -> Result<Self> {
        let reader = client().await;
        let quiet = reader.config().to_builder().retry_config(RetryConfig::disabled()).build();
        let instance = describe::instance(&reader, instance_id, types).await?;
        Ok(Self { writer: Client::from_conf(quiet), reader, instance, trunk_account })
    }
}

async fn client() -> Client {
    let timeouts = TimeoutConfig::builder().operation_timeout(CALL_LIMIT).build();
    let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let config = aws_config::defaults(BehaviorVersion::latest()).timeout_config(timeouts).http_client(http);
    Client::new(&config.load().await)
}

impl Cloud for Ec2 {
    async fn facts(&self, wanted: &Wanted) -> Result<CloudFacts> {
        describe::facts(&self.reader, &self.instance, wanted, self.trunk_account.as_deref()).await
    }

    async fn apply(&self, step: &CloudStep) -> Result<Answer, Failure> {
        steps::apply(&self.writer, &self.instance, step).await
    }
}

/// What a call that failed means.
fn failed<E>(error: SdkError<E>) -> Failure
where
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    match error.code() {
        Some(code) => Failure::of(code, status, error.message().unwrap_or_default()),
        None if status >= 500 => Failure::unanswered(&format!("EC2 answered with HTTP status {status}")),
        None => Failure::unanswered(&format!("EC2 cannot be reached: {}", DisplayErrorContext(error))),
    }
}

/// A question that EC2 did not answer.
#[derive(Debug)]
pub struct Unanswered {
    /// EC2's name of the question.
    action: &'static str,
    failure: Failure,
}

impl Unanswered {
    /// What to do, where the role may not ask this.
    pub fn permission(&self) -> Option<String> {
        (self.failure.kind == FailureKind::Unauthorized).then(|| self.failure.permission(self.action))
    }
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.failure)?;
        self.permission().map_or(Ok(()), |way_out| write!(f, "; {way_out}"))
    }
}

impl std::error::Error for Unanswered {}

/// Likewise, of a question.
fn told<E>(action: &'static str) -> impl FnOnce(SdkError<E>) -> anyhow::Error
where
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    move |error| anyhow::Error::new(Unanswered { action, failure: failed(error) })
}

/// Whether the object of a call is gone already.
fn is_gone<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    error.code().is_some_and(failure::is_gone)
}

/// What must be in an answer.
fn required<T>(value: Option<T>, what: &str) -> Result<T> {
    value.with_context(|| format!("EC2's answer has no {what}"))
}
