//! Whether the API server answers: a watch that was lost looks like one on which nothing happens.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube::Client;
use tracing::{info, warn};

/// Between two questions, and the longest one may take.
const EVERY: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(10);

/// When the API server answered last.
pub(super) struct Pulse(Arc<Mutex<Option<Instant>>>);

impl Pulse {
    /// Asks for its version (which everybody may) for as long as the process lives. Tells each outage once, and its end.
    pub(super) fn start(client: Client) -> Self {
        Self::every(EVERY, client)
    }

    fn every(every: Duration, client: Client) -> Self {
        let last = Arc::new(Mutex::new(None));
        let known = Arc::clone(&last);
        tokio::spawn(async move {
            let mut away = false;
            loop {
                let answer = tokio::time::timeout(PATIENCE, client.apiserver_version()).await;
                let why = match answer {
                    Ok(Ok(_)) => None,
                    Ok(Err(error)) => Some(super::watched::chain(&error)),
                    Err(_) => Some(format!("no answer within {PATIENCE:?}")),
                };
                match (&why, away) {
                    (None, true) => info!("the API server answers again"),
                    (Some(error), false) => warn!(error, "the API server does not answer; what is enforced stays"),
                    _ => {}
                }
                away = why.is_some();
                if !away {
                    *known.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                }
                tokio::time::sleep(every).await;
            }
        });
        Self(last)
    }

    /// `None` before the first answer.
    pub(super) fn last(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    use super::*;

    const VERSION: &str = r#"{"major":"1","minor":"34","gitVersion":"v1.34.4","gitCommit":"","gitTreeState":"","buildDate":"","goVersion":"","compiler":"","platform":""}"#;

    /// Answers so many questions, then none.
    fn api_server(answers: usize) -> (Client, std::thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let serving = std::thread::spawn(move || {
            for stream in listener.incoming().take(answers) {
                let mut stream = stream.expect("a connection");
                let lines = BufReader::new(stream.try_clone().expect("a second handle")).lines();
                lines.map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: ";
                write!(stream, "{head}{}\r\n\r\n{VERSION}", VERSION.len()).expect("an answer");
            }
        });
        let config = kube::Config::new(url.parse().expect("a URL"));
        (Client::try_from(config).expect("a client"), serving)
    }

    #[tokio::test]
    async fn the_last_answer_ages_once_the_api_server_is_gone() {
        let (client, serving) = api_server(2);
        let pulse = Pulse::every(Duration::from_millis(20), client);
        tokio::task::spawn_blocking(|| serving.join()).await.expect("a thread").expect("two questions came");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let last = pulse.last().expect("it has answered");
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(pulse.last(), Some(last), "nobody answers any more");
    }
}
