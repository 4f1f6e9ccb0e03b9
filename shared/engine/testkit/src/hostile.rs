//! Texts that try to slow redaction down: for each rule, text that begins to match again and
//! again.

/// Generates a hostile text of about the given size in bytes.
pub struct Hostile {
    /// The rule, and how the text attacks it.
    pub name: String,
    pub text: Box<dyn Fn(usize) -> String>,
}

/// Rule and attack, a beginning, and the part that is repeated after it.
const REPEATED: &[(&str, &str, &str)] = &[
    ("url: no end", "", "x://"),
    ("url: a user without an end", "", "x://a:b"),
    ("url: one user at the very end", "", "http://example.com/x\n"),
    ("url: users", "", "x://a:b@"),
    ("url: slashes", "x://a:", "b/@"),
    ("private key: no end", "", "-----BEGIN PRIVATE KEY-----\n"),
    ("private key: half an end", "-----BEGIN PRIVATE KEY-----", "-----END "),
    ("private lines", "", "Private-Lines: 1\n    "),
    ("vault file", "", "$ANSIBLE_VAULT;1.1\n     "),
    ("cookie", "", "cookie: \""),
    ("cookie: blanks", "", "cookie           "),
    ("authorization", "", "authorization: x "),
    ("authorization: digest", "", "authorization: digest x, "),
    ("authorization: blanks", "", "authorization     "),
    ("bearer", "", "bearer a "),
    ("bearer: blanks", "bearer", "     "),
    ("driver", "", "a:b@tcp("),
    ("driver: no end", "", "a:b@tcp"),
    ("thin", "", ":thin:a/b"),
    ("webhook", "", "hooks.slack.com/services/"),
    ("assigned: names", "", "password"),
    ("assigned: signs", "", "password="),
    ("assigned: one name", "password", "a_"),
    ("assigned: quotes", "", "auth=\"x "),
    ("assigned: escaped quotes", "", "token=\\\"x "),
    ("assigned: backslashes", "token=", "\\"),
    ("assigned: lists", "", "token=[\"x "),
    ("assigned: open lists", "", "token=["),
    ("assigned: place-holders", "", "token=\"<"),
    ("assigned: variables", "", "auth=${"),
    ("assigned: counted lists", "", "tokens={"),
    ("assigned: escaped counted lists", "", "tokens=\\["),
    ("assigned: quoted counted lists", "", "tokens=\"{"),
    ("assigned: blanks", "", "password        "),
    ("assigned: quotes without a sign", "", "session \\\"x "),
    ("assigned: wrapped", "", "token=Some(Some("),
    ("assigned: entities", "", "token=&quot;"),
    ("assigned: flags", "", "--token -"),
    ("assigned: escaped lines", "", "token=x\\n"),
    ("assigned: escaped lines without a name", "token=", "\\nabc.def-"),
    ("blocks", "", "password: |\n x\n"),
    ("blocks: deeper and deeper", "", "token:\n- - - - "),
    ("blocks: escaped lines", "", "password: |\\n x\\n"),
    ("elements", "", "<password>"),
    ("elements: attributes", "<password ", "a=\"b\" </"),
    ("elements: CDATA", "", "<password><![CDATA[</"),
    ("elements: counted lists", "", "<tokens><![CDATA[[</"),
    ("pairs: names", "", "name: password, "),
    ("pairs: values", "", "value=\"x, name="),
    ("pairs: no name", "", "password=1 name: token, value: "),
    ("query", "", "&sig="),
    ("said", "", "password is "),
    ("said: blanks", "", "password is       "),
    ("phrase", "passphrase is a", " a"),
    ("flag", "", "x-token   "),
    ("stdin", "password-stdin ", "echo a a "),
    ("command: programs", "", "curl "),
    ("command: flags", "curl ", "-u a:b "),
    ("command: open quotes", "", "curl \""),
    ("command: words", "", "docker - -p a "),
    ("token: begins", "", "ghp_"),
    ("token: nearly", "", "ghp_aaaaaaaaaaaaaaaaaaa."),
    ("token: tokens", "", "glpat-aaaaaaaaaaaaaaaaaaaaaaaa "),
    ("aws", "", "AKIAAAAAAAAAAAAAAAA "),
    ("sk", "", "sk-aaaaaaaaaaaaaaaa-"),
    ("sendgrid", "", "SG.aaaaaaaaaaaaaaaaaaaa."),
    ("own", "", "wb_0123456789abcdef"),
    ("jwt", "", "eyJaaaaaaaaa"),
    ("jwt: dots", "eyJaaaaaaaaaa.aaaa", "."),
    ("digits", "", "key-0123456789abcdef"),
    ("digits: runs", "", "12345678:AAxxxxxxxxxxxxx1 "),
    ("crypt", "", "$6$aaaaaaaaaaaaa"),
    ("jwk", "\"kty\"", "\"d\": \""),
    ("pgpass", "", ":5432:a:"),
    ("identified", "", "identified by '"),
    ("hidden", "", "pass\u{200b}word=1 \u{1b}["),
    ("hidden: open titles", "", "\u{1b}]"),
    ("within: open lists", "x ", "[\"a\","),
    ("within: open objects", "x ", "{\"a\":"),
    ("within: half documents", "x ", "[{\"a\":\"b\"} "),
    ("within: documents", "x ", "{\"token\":\"x1\"} "),
    ("within: texts without an end", "x [\"", "{[1,"),
    ("within: quotes", "x ", "[\""),
    ("within: quotes of objects", "x ", "{\""),
    ("within: numbers", "x ", "[1"),
    ("within: blanks", "x [", " "),
    ("within: blanks of lists", "x ", "[   "),
    ("within: escapes", "x \"", "token=x\\n"),
    ("within: escaped quotes", "x ", "\\\""),
    ("within: backslashes", "x \"", "\\"),
    ("within: code points", "x ", "pass\\u{200b}word=1 \\ud83d"),
    ("within: open code points", "x ", "\\u{"),
    ("json: open objects", "", "{\"a\":"),
    ("json: open lists", "[", "[1],"),
];

/// Hostile texts for each rule, and some for JSON as a whole.
pub fn hostile() -> Vec<Hostile> {
    let repeated = REPEATED.iter().map(|(name, begin, part)| Hostile {
        name: (*name).to_owned(),
        text: Box::new(move |size| {
            let times = size / part.len();
            // The end also holds the markers that rules search for.
            format!("{begin}{} @ -----END PRIVATE KEY-----", part.repeat(times))
        }),
    });
    repeated.chain(in_json()).chain([written_again()]).collect()
}

/// Text that is escaped more often than redaction unescapes it, with an invisible character in
/// it.
fn written_again() -> Hostile {
    let text = |size: usize| {
        (0..6).fold("a token=x1 \u{200b}\n".repeat(size / 280), |inner, _| format!("x {inner:?}"))
    };
    Hostile { name: "within: escapes within escapes".to_owned(), text: Box::new(text) }
}

fn in_json() -> Vec<Hostile> {
    let of = |name: &str, text: fn(usize) -> String| Hostile {
        name: format!("json: {name}"),
        text: Box::new(text),
    };
    vec![
        of("texts", |size| format!("[{}\"\"]", "\"token=x1\",".repeat(size / 11))),
        of("names", |size| format!("{{{}\"a\":1}}", "\"token\":\"x1\",".repeat(size / 13))),
        of("pairs", |size| {
            let pair = "{\"value\":{\"value\":1,\"name\":\"a\"},\"name\":\"token\"},";
            format!("[{}1]", pair.repeat(size / pair.len()))
        }),
        of("flags", |size| format!("[{}1]", "\"--token\",\"curl\",".repeat(size / 17))),
        of("escapes", |size| format!("[\"{}\"]", "\\u0070assword=".repeat(size / 14))),
        of("a list under a long name", |size| {
            format!("{{\"token{}\":[{}1]}}", "s".repeat(size / 2), "1,".repeat(size / 4))
        }),
        of("texts within texts", |size| {
            (0..6).fold("a token=x1 ".repeat(size / 80), |inner, _| {
                serde_json::json!([inner]).to_string()
            })
        }),
    ]
}
