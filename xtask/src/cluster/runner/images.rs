//! Images this cluster knows: the machine's own programs stand in for them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Container;

use super::Node;
use crate::place::Family;

/// What is in the place of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Image {
    Nginx,
    Busybox,
    Dnsmasq,
}

/// DIR is the pod's own: nginx removes its pid file at exit, whatever it is.
const NGINX: &str = "daemon off; pid DIR/nginx.pid; error_log stderr; worker_processes 1;
events {}
http { access_log off; server { listen LISTEN; root /usr/share/nginx/html; } }
";

/// `registry/path/name:tag` -> the program.
fn image(of: &str) -> Result<Image> {
    let name = of.rsplit('/').next().unwrap_or(of);
    match name.split([':', '@']).next().unwrap_or(name) {
        "nginx" => Ok(Image::Nginx),
        "busybox" => Ok(Image::Busybox),
        "dnsmasq" => Ok(Image::Dnsmasq),
        _ => bail!("image {of:?} is not in this cluster's table: it knows nginx, busybox and dnsmasq"),
    }
}

fn nginx(family: Family, dir: &Path) -> String {
    let listen = if family == Family::V4 { "80" } else { "[::]:80" };
    NGINX.replace("DIR", &dir.display().to_string()).replace("LISTEN", listen)
}

/// The container's command line. Files it needs are made in the pod's directory.
pub(super) fn command(node: &Node, container: &Container, dir: &Path) -> Result<Vec<String>> {
    let image = image(container.image.as_deref().unwrap_or_default())?;
    let given: Vec<String> =
        container.command.iter().flatten().chain(container.args.iter().flatten()).cloned().collect();
    if !given.is_empty() {
        return Ok(given);
    }
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    match image {
        Image::Busybox => Ok(words("sh")),
        Image::Nginx => {
            let config = dir.join("nginx.conf");
            fs::write(&config, nginx(node.place.family, dir)).context("writing nginx.conf")?;
            Ok(words(&format!("nginx -c {}", config.display())))
        }
        Image::Dnsmasq => {
            let hosts = node.place.node_dir(&node.name).join("hosts");
            fs::create_dir_all(&hosts).context("making the directory of names")?;
            let options = "--keep-in-foreground --conf-file=/dev/null --user=root --pid-file= --no-resolv --no-hosts --log-facility=-";
            Ok(words(&format!("dnsmasq {options} --local=/cluster.local/ --hostsdir={}", hosts.display())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_by_its_last_word() {
        assert_eq!(image("public.ecr.aws/nginx/nginx:1.23").ok(), Some(Image::Nginx));
        assert_eq!(image("busybox").ok(), Some(Image::Busybox));
        let told = image("example.com/shop:1").expect_err("unknown").to_string();
        assert!(told.contains("example.com/shop:1"), "{told}");
    }
}
