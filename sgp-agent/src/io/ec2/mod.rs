//! EC2: what it says of interfaces, groups and prefix lists, and the calls that make trunk and branches.

mod convert;
mod describe;
mod limits;
mod steps;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use aws_config::BehaviorVersion;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_ec2::Client;
use aws_sdk_ec2::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};

use crate::domain::branches::CloudStep;
use crate::domain::observed::{CloudFacts, Instance};

/// The longest one call may take, retries included: a call that never ends would hold its object for good.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// Where facts about the cloud come from and cloud steps go: EC2, or a model of it in tests.
pub trait Cloud: Send + Sync + 'static {
    /// Everything this node needs to know. `wanted`: groups to describe beside those that interfaces carry.
    fn facts(&self, wanted: &BTreeSet<String>) -> impl Future<Output = Result<CloudFacts>> + Send;
    /// Takes one step.
    fn apply(&self, step: &CloudStep) -> impl Future<Output = Result<()>> + Send;
}

/// EC2, for one instance.
pub struct Ec2 {
    client: Client,
    instance: Instance,
    vpc_cidrs: Vec<ipnet::IpNet>,
}

impl Ec2 {
    /// Finds out where this instance stands. Endpoint, region and credentials are the SDK's own settings
    /// (`AWS_ENDPOINT_URL`, `AWS_REGION`, …, or the instance's role).
    ///
    /// # Errors
    /// Where EC2 cannot be reached or does not know the instance.
    pub async fn connect(instance_id: &str) -> Result<Self> {
        let timeouts = TimeoutConfig::builder().operation_timeout(CALL_LIMIT).build();
        let http =
            aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let config =
            aws_config::defaults(BehaviorVersion::latest()).timeout_config(timeouts).http_client(http).load().await;
        let client = Client::new(&config);
        let (instance, vpc_cidrs) = describe::instance(&client, instance_id).await?;
        Ok(Self { client, instance, vpc_cidrs })
    }
}

impl Cloud for Ec2 {
    async fn facts(&self, wanted: &BTreeSet<String>) -> Result<CloudFacts> {
        describe::facts(&self.client, &self.instance, &self.vpc_cidrs, wanted).await
    }

    async fn apply(&self, step: &CloudStep) -> Result<()> {
        steps::apply(&self.client, &self.instance, step).await
    }
}

/// `Code: message` of an EC2 error; for one that never reached EC2, the whole chain of causes.
fn told<E>(error: SdkError<E>) -> anyhow::Error
where
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    match (error.code(), error.message()) {
        (Some("UnauthorizedOperation"), message) => anyhow::anyhow!(
            "UnauthorizedOperation: {}; give the agent's role this action (facts: AssociateTrunkInterface is not open to every account)",
            message.unwrap_or_default()
        ),
        (Some(code), message) => anyhow::anyhow!("{code}: {}", message.unwrap_or_default()),
        _ => anyhow::anyhow!("EC2 cannot be reached: {}", DisplayErrorContext(error)),
    }
}

/// What EC2 calls an error whose object is gone already.
fn is_gone<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    error.code().is_some_and(|code| code.ends_with(".NotFound"))
}

/// What must be in an answer.
fn required<T>(value: Option<T>, what: &str) -> Result<T> {
    value.with_context(|| format!("EC2's answer has no {what}"))
}
