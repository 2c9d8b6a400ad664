//! Finds the functions of a source file and measures them.

use anyhow::{Context, Result};
use syn::visit::{self, Visit};
use syn::{Attribute, Block, ImplItemFn, ItemFn, ItemMod, Signature, TraitItemFn};

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    /// Where it starts.
    pub(super) line: usize,
    /// Lines between its braces.
    pub(super) length: usize,
    pub(super) is_test: bool,
}

/// What the budgets look at in one file.
#[derive(Debug, Default)]
pub(super) struct Outline {
    pub(super) functions: Vec<Function>,
    /// Modules declared in it, in a file of their own or not.
    pub(super) modules: Vec<String>,
    /// How deep in items marked as tests the walk is.
    test_depth: usize,
}

/// Reads a file's outline; `is_test` says that all of it is test code.
pub(super) fn outline(source: &str, is_test: bool) -> Result<Outline> {
    let file = syn::parse_file(source).context("it does not parse as Rust")?;
    let mut outline = Outline { test_depth: usize::from(is_test), ..Outline::default() };
    outline.visit_file(&file);
    Ok(outline)
}

impl Outline {
    fn add(&mut self, signature: &Signature, body: &Block) {
        let name = signature.ident.to_string();
        let (line, length) = (signature.ident.span().start().line, length(body));
        self.functions.push(Function { name, line, length, is_test: self.test_depth > 0 });
    }

    /// Walks into an item, as test code if its attributes say so.
    fn within(&mut self, attributes: &[Attribute], walk: impl FnOnce(&mut Self)) {
        let deeper = usize::from(attributes.iter().any(is_test));
        self.test_depth += deeper;
        walk(self);
        self.test_depth -= deeper;
    }
}

impl<'ast> Visit<'ast> for Outline {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.modules.push(item.ident.to_string());
        self.within(&item.attrs, |outline| visit::visit_item_mod(outline, item));
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.within(&item.attrs, |outline| {
            outline.add(&item.sig, &item.block);
            visit::visit_item_fn(outline, item);
        });
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        self.within(&item.attrs, |outline| {
            outline.add(&item.sig, &item.block);
            visit::visit_impl_item_fn(outline, item);
        });
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        item.default.iter().for_each(|body| self.add(&item.sig, body));
        visit::visit_trait_item_fn(self, item);
    }
}

/// `#[test]`, `#[tokio::test]` and `#[cfg(test)]`.
fn is_test(attribute: &Attribute) -> bool {
    let path = attribute.path();
    let named_test = path.segments.last().is_some_and(|segment| segment.ident == "test");
    named_test
        || path.is_ident("cfg") && attribute.parse_args::<syn::Ident>().is_ok_and(|condition| condition == "test")
}

fn length(body: &Block) -> usize {
    let (open, close) = (body.brace_token.span.open().start().line, body.brace_token.span.close().start().line);
    match close - open {
        0 => usize::from(!body.stmts.is_empty()),
        lines => lines - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "mod inner;
fn one() { 1 }
fn empty() {}
/// Documented.
fn three() {
    // a comment counts
    let closure = || 1;
    closure()
}
impl S {
    fn method(&self)
    where
        Self: Sized,
    {
        1
    }
}
trait T { fn declared(); fn given() { 1 } }
#[cfg(test)]
mod tests {
    fn fixture() { 1 }
}
#[tokio::test]
async fn a_test() { 1 }
#[cfg(feature = \"x\")]
fn conditional() { 1 }
";

    fn measured(is_test: bool) -> Vec<(String, usize, bool)> {
        let outline = outline(SOURCE, is_test).unwrap_or_default();
        outline.functions.into_iter().map(|function| (function.name, function.length, function.is_test)).collect()
    }

    #[test]
    fn bodies_are_measured_between_their_braces() {
        let expected = [
            ("one", 1, false),
            ("empty", 0, false),
            ("three", 3, false),
            ("method", 1, false),
            ("given", 1, false),
            ("fixture", 1, true),
            ("a_test", 1, true),
            ("conditional", 1, false),
        ];
        assert_eq!(measured(false), expected.map(|(name, length, is_test)| (name.to_owned(), length, is_test)));
    }

    #[test]
    fn a_file_of_tests_is_all_tests() {
        assert!(measured(true).iter().all(|(_, _, is_test)| *is_test));
    }

    #[test]
    fn modules_and_lines_are_told() {
        let outline = outline(SOURCE, false).unwrap_or_default();
        assert_eq!(outline.modules, ["inner", "tests"]);
        assert_eq!(outline.functions[2].line, 5);
        assert!(super::outline("fn {", false).is_err());
    }
}
