//! A page of `docs/` that a case writes: what was typed and what was said, with what differs from run to run under names that
//! stay.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};

/// Set, the page is written anew instead of being compared.
const BLESS: &str = "SGP_BLESS";

/// The page, as it grows.
pub(super) struct Transcript {
    text: String,
    /// What is known of this run, and what it is called; whole words only.
    names: Vec<(String, String)>,
    /// Ids met, in order of appearance.
    ids: BTreeMap<String, String>,
}

impl Transcript {
    /// Begins with a page's head.
    pub(super) fn begin(head: &str) -> Self {
        Self { text: head.to_owned(), names: Vec::new(), ids: BTreeMap::new() }
    }

    /// From here on, `this` is called so.
    pub(super) fn call(&mut self, this: &str, name: &str) {
        self.names.push((this.to_owned(), name.to_owned()));
    }

    /// Begins a part of the page.
    pub(super) fn part(&mut self, title: &str, words: &str) {
        self.say(&format!("\n## {title}\n\n{words}"));
    }

    /// Prose.
    fn say(&mut self, words: &str) {
        self.text.push_str(words);
        self.text.push('\n');
    }

    /// A command and its output.
    ///
    /// # Errors
    /// Where the output does not contain each of these words, which name the cause.
    pub(super) fn command(&mut self, typed: &str, output: &str, causes: &[&str]) -> Result<()> {
        let steady = self.steady(output);
        for cause in causes {
            ensure!(steady.contains(cause), "`{typed}` does not say {cause:?}:\n{steady}");
        }
        let typed = self.steady(typed);
        self.say(&format!("\n```console\n$ {}\n{}\n```", typed.trim_end(), steady.trim_end()));
        Ok(())
    }

    /// Ids and addresses by their names, word by word.
    fn steady(&mut self, text: &str) -> String {
        let mut out = String::new();
        for line in text.lines() {
            let mut rest = line.trim_end();
            while !rest.is_empty() {
                let is_word = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
                let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                let (word, after) =
                    rest.split_at(end.max(rest.chars().next().map_or(1, char::len_utf8).min(rest.len())));
                let word = if end == 0 { word.to_owned() } else { self.name(word) };
                out.push_str(&word);
                rest = after;
            }
            out.push('\n');
        }
        out
    }

    fn name(&mut self, word: &str) -> String {
        if let Some((_, name)) = self.names.iter().find(|(this, _)| this == word) {
            return name.clone();
        }
        // Ports that Linux gives to those who ask for none.
        if word.parse::<u16>().is_ok_and(|number| number >= 32_768) {
            return "PORT".to_owned();
        }
        let kind = ["sgr-", "sg-", "eni-", "i-", "pol_"].into_iter().find(|kind| {
            let id = word.strip_prefix(kind).unwrap_or_default();
            id.len() >= 8 && id.chars().all(|c| c.is_ascii_hexdigit())
        });
        let Some(kind) = kind else { return word.to_owned() };
        let known = self.ids.keys().filter(|id| id.starts_with(kind)).count();
        self.ids.entry(word.to_owned()).or_insert_with(|| format!("{kind}{}", known + 1)).clone()
    }

    /// Compares with the page that is checked in, or writes it.
    ///
    /// # Errors
    /// Where they differ: the first line that does, and how to write it anew.
    pub(super) fn end(self, page: &str) -> Result<()> {
        let path = path(page);
        if env::var_os(BLESS).is_some() {
            return fs::write(&path, &self.text).with_context(|| format!("writing {}", path.display()));
        }
        let before = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        if before == self.text {
            return Ok(());
        }
        let mut pairs =
            before.lines().map(Some).chain([None]).zip(self.text.lines().map(Some).chain([None])).enumerate();
        let (line, (old, new)) = pairs.find(|(_, (old, new))| old != new).context("they differ in their last line")?;
        bail!(
            "{page}, line {}: it says\n  {}\nand now it would say\n  {}\nIf that is meant: {BLESS}=1 cargo xtask test breakages, and read what it wrote",
            line + 1,
            old.unwrap_or("(nothing)"),
            new.unwrap_or("(nothing)")
        )
    }
}

fn path(page: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_numbered_as_they_appear_and_known_words_have_their_names() {
        let mut transcript = Transcript::begin("");
        transcript.call("10.64.0.9", "SERVER");
        let text = "(sgr-0a1b2c3d4e5f of sg-0a1b2c3d4) sgr-ffffffffffff; sgr-0a1b2c3d4e5f -> 10.64.0.9:80, 10.64.0.90:40001 — sg-x";
        assert_eq!(transcript.steady(text), "(sgr-1 of sg-1) sgr-2; sgr-1 -> SERVER:80, 10.64.0.90:PORT — sg-x\n");
    }
}
