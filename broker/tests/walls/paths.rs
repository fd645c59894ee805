//! Every path a source file names, `use` and full paths alike, written from the crate's root.

use std::iter::Peekable;
use std::vec::IntoIter;

/// A path and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) path: String,
    pub(crate) line: usize,
}

/// The paths of `source`, a file of module `module` (`["broker", "mesh", "state"]`). What begins
/// with `crate`, `self` or `super` is resolved; comments and texts do not count.
pub(crate) fn paths(source: &str, module: &[&str]) -> Vec<Named> {
    let mut reader = Reader {
        tokens: tokens(source).into_iter().peekable(),
        module: module.iter().map(|&part| part.to_owned()).collect(),
        found: Vec::new(),
    };
    reader.block();
    reader.found
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    /// `::`
    Colons,
    Sign(char),
}

struct Reader {
    tokens: Peekable<IntoIter<(Token, usize)>>,
    module: Vec<String>,
    found: Vec<Named>,
}

impl Reader {
    /// Up to the brace that closes this block, or the end.
    fn block(&mut self) {
        while let Some((token, line)) = self.tokens.next() {
            match token {
                Token::Sign('{') => self.block(),
                Token::Sign('}') => return,
                Token::Word(word) if word == "use" => self.tree(&[]),
                Token::Word(word) if word == "mod" => self.module(),
                Token::Word(word) => self.full(word, line),
                Token::Colons | Token::Sign(_) => {}
            }
        }
    }

    /// `mod name;` or `mod name { … }`, in which `super` is one further up.
    fn module(&mut self) {
        let Some((Token::Word(name), _)) = self.tokens.next() else { return };
        if self.take(&Token::Sign('{')) {
            self.module.push(name);
            self.block();
            self.module.pop();
        }
    }

    /// `first::second…` in the midst of code.
    fn full(&mut self, first: String, line: usize) {
        let mut path = vec![first];
        while self.take(&Token::Colons) {
            match self.tokens.next_if(|(token, _)| matches!(token, Token::Word(_))) {
                Some((Token::Word(word), _)) => path.push(word),
                _ => break,
            }
        }
        if path.len() > 1 {
            self.note(&path, line);
        }
    }

    /// What follows `use`, or a comma within its braces.
    fn tree(&mut self, prefix: &[String]) {
        let mut path = prefix.to_vec();
        let mut last = 0;
        while let Some((token, line)) = self.tokens.next() {
            last = line;
            match token {
                Token::Word(word) if word == "as" => {
                    self.tokens.next();
                }
                Token::Word(word) if word == "self" && !path.is_empty() => {}
                Token::Word(word) => path.push(word),
                Token::Sign('{') => {
                    self.trees(&path);
                    return;
                }
                Token::Colons | Token::Sign('*') => {}
                Token::Sign(_) => break,
            }
            if matches!(self.tokens.peek(), Some((Token::Sign(',' | '}'), _))) {
                break;
            }
        }
        self.note(&path, last);
    }

    fn trees(&mut self, prefix: &[String]) {
        while !self.take(&Token::Sign('}')) && self.tokens.peek().is_some() {
            if !self.take(&Token::Sign(',')) {
                self.tree(prefix);
            }
        }
    }

    fn take(&mut self, wanted: &Token) -> bool {
        self.tokens.next_if(|(token, _)| token == wanted).is_some()
    }

    fn note(&mut self, path: &[String], line: usize) {
        let up = path.iter().take_while(|part| *part == "super").count();
        let resolved = match path.first().map(String::as_str) {
            Some("crate") => [&self.module[..1], &path[1..]].concat(),
            Some("self") => [&self.module[..], &path[1..]].concat(),
            Some("super") => {
                let kept = self.module.len().saturating_sub(up).max(1);
                [&self.module[..kept], &path[up..]].concat()
            }
            _ => path.to_vec(),
        };
        self.found.push(Named { path: resolved.join("::"), line });
    }
}

/// Words and signs with their lines. Comments, texts and characters are left out.
fn tokens(source: &str) -> Vec<(Token, usize)> {
    let mut found = Vec::new();
    let (mut rest, mut line) = (source, 1);
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let length = if let Some(length) = silent(rest) {
            length
        } else if word > 0 {
            found.push((Token::Word(rest[..word].to_owned()), line));
            word
        } else if rest.starts_with("::") {
            found.push((Token::Colons, line));
            2
        } else {
            if !first.is_whitespace() {
                found.push((Token::Sign(first), line));
            }
            first.len_utf8()
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    found
}

/// The length of a comment, a text or a character at the start of `rest`.
fn silent(rest: &str) -> Option<usize> {
    let upto = |end: &str, from: usize| rest[from..].find(end).map_or(rest.len(), |at| from + at);
    if rest.starts_with("//") {
        return Some(upto("\n", 0));
    }
    if rest.starts_with("/*") {
        return Some((upto("*/", 2) + 2).min(rest.len()));
    }
    let prefix = ["r", "br", "b", ""].into_iter().find(|prefix| {
        let behind = rest.strip_prefix(prefix).unwrap_or_default();
        let quoted = if prefix.contains('r') { behind.trim_start_matches('#') } else { behind };
        quoted.starts_with('"')
    });
    match prefix {
        Some(prefix) if prefix.contains('r') => {
            let hashes = rest[prefix.len()..].bytes().take_while(|byte| *byte == b'#').count();
            let end = format!("\"{}", "#".repeat(hashes));
            let start = prefix.len() + hashes + 1;
            Some((upto(&end, start) + end.len()).min(rest.len()))
        }
        Some(prefix) => Some(closing(rest, prefix.len() + 1, '"')),
        // A lifetime has no closing quote where a character has.
        None if rest.starts_with("'\\") => Some(closing(rest, 1, '\'')),
        None if rest.starts_with('\'') => {
            let mut chars = rest.char_indices().skip(2);
            chars.next().filter(|(_, c)| *c == '\'').map(|(at, _)| at + 1)
        }
        None => None,
    }
}

/// Behind the next `quote` from `start` on that is not escaped.
fn closing(rest: &str, start: usize, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest[start..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return start + at + 1,
            _ => {}
        }
    }
    rest.len()
}
