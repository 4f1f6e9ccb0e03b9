//! Keys with a prefix that their issuers document.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

use super::edit::TextEdit;

/// The prefix of a kind of key, and the minimum number of characters that follow.
struct Token {
    prefix: &'static str,
    least: usize,
    of: fn(u8) -> bool,
}

const fn token(prefix: &'static str, least: usize) -> Token {
    Token { prefix, least, of: is_url }
}

const fn of(prefix: &'static str, least: usize, of: fn(u8) -> bool) -> Token {
    Token { prefix, least, of }
}

fn is_url(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')
}

fn is_dotted(b: u8) -> bool {
    is_url(b) || b == b'.'
}

fn is_base64(b: u8) -> bool {
    is_url(b) || matches!(b, b'+' | b'/' | b'=' | b'.')
}

fn is_listed(b: u8) -> bool {
    is_base64(b) || b == b':'
}

fn is_plain(b: u8) -> bool {
    b.is_ascii_alphanumeric()
}

macro_rules! tokens {
    ($(($prefix:literal, $word:literal, $($rest:expr),+)),* $(,)?) => {
        const TOKENS: &[Token] = &[$(tokens!(@one $prefix, $($rest),+)),*];
        /// The prefixes in lower case, for the filter.
        pub(super) const WORDS: &[&str] = &[$($word),*];
    };
    (@one $prefix:literal, $least:expr) => { token($prefix, $least) };
    (@one $prefix:literal, $least:expr, $of:expr) => { of($prefix, $least, $of) };
}

tokens![
    ("ghp_", "ghp_", 20),
    ("gho_", "gho_", 20),
    ("ghu_", "ghu_", 20),
    ("ghs_", "ghs_", 20),
    ("ghr_", "ghr_", 20),
    ("github_pat_", "github_pat_", 20),
    ("glpat-", "glpat-", 16, is_dotted),
    ("gldt-", "gldt-", 16, is_dotted),
    ("glrt-", "glrt-", 16, is_dotted),
    ("glptt-", "glptt-", 16, is_dotted),
    ("glcbt-", "glcbt-", 16, is_dotted),
    ("glft-", "glft-", 16, is_dotted),
    ("glsoat-", "glsoat-", 16, is_dotted),
    ("glimt-", "glimt-", 16, is_dotted),
    ("glagent-", "glagent-", 16, is_dotted),
    ("gloas-", "gloas-", 16, is_dotted),
    ("glffct-", "glffct-", 16, is_dotted),
    ("GR1348941", "gr1348941", 16),
    ("xoxa-", "xoxa-", 8, is_dotted),
    ("xoxb-", "xoxb-", 8, is_dotted),
    ("xoxe-", "xoxe-", 8, is_dotted),
    ("xoxe.", "xoxe.", 8, is_dotted),
    ("xoxo-", "xoxo-", 8, is_dotted),
    ("xoxp-", "xoxp-", 8, is_dotted),
    ("xoxr-", "xoxr-", 8, is_dotted),
    ("xoxs-", "xoxs-", 8, is_dotted),
    ("xapp-", "xapp-", 8, is_dotted),
    ("AIza", "aiza", 20),
    ("GOCSPX-", "gocspx-", 20),
    ("ya29.", "ya29.", 20, is_dotted),
    ("1//0", "1//0", 30),
    ("npm_", "npm_", 30),
    ("pypi-", "pypi-", 30),
    ("hf_", "hf_", 30),
    ("api_org_", "api_org_", 30, is_plain),
    ("hvs.", "hvs.", 20),
    ("hvb.", "hvb.", 20),
    ("hvr.", "hvr.", 20),
    ("dckr_pat_", "dckr_pat_", 20),
    ("dckr_oat_", "dckr_oat_", 20),
    ("dop_v1_", "dop_v1_", 20),
    ("doo_v1_", "doo_v1_", 20),
    ("dor_v1_", "dor_v1_", 20),
    ("glsa_", "glsa_", 20),
    ("glc_", "glc_", 32, is_base64),
    ("eyJrIjoi", "eyjrijoi", 24, is_base64),
    ("shpat_", "shpat_", 20),
    ("shpss_", "shpss_", 20),
    ("shpca_", "shpca_", 20),
    ("shppa_", "shppa_", 20),
    ("AGE-SECRET-KEY-1", "age-secret-key-1", 20),
    ("ddapi_", "ddapi_", 20),
    ("sntrys_", "sntrys_", 30, is_base64),
    ("sntryu_", "sntryu_", 30),
    ("vcp_", "vcp_", 24),
    ("vercel_blob_rw_", "vercel_blob_rw_", 20),
    ("xai-", "xai-", 40, is_plain),
    ("pplx-", "pplx-", 32),
    ("r8_", "r8_", 32, is_plain),
    ("dt0c01.", "dt0c01.", 24, is_dotted),
    ("dt0s16.", "dt0s16.", 24, is_dotted),
    ("NRAK-", "nrak-", 20),
    ("NRII-", "nrii-", 20),
    ("NRJS-", "nrjs-", 16),
    ("lin_api_", "lin_api_", 20),
    ("ntn_", "ntn_", 30),
    ("secret_", "secret_", 40, is_plain),
    ("PMAK-", "pmak-", 24),
    ("pul-", "pul-", 40, is_plain),
    ("dapi", "dapi", 32, is_plain),
    ("pscale_tkn_", "pscale_tkn_", 20, is_dotted),
    ("pscale_pw_", "pscale_pw_", 20, is_dotted),
    ("pscale_oauth_", "pscale_oauth_", 20, is_dotted),
    ("rubygems_", "rubygems_", 24),
    ("sq0atp-", "sq0atp-", 20),
    ("sq0csp-", "sq0csp-", 20),
    ("EAAA", "eaaa", 50),
    ("EAAC", "eaac", 80, is_plain),
    ("EAAM", "eaam", 80, is_plain),
    ("ATATT3", "atatt3", 40, is_base64),
    ("ATCTT3", "atctt3", 40, is_base64),
    ("ATBB", "atbb", 28, is_plain),
    ("AKCp", "akcp", 40, is_plain),
    ("cmVmd", "cmvmd", 40, is_plain),
    ("dp.pt.", "dp.pt.", 20, is_dotted),
    ("dp.st.", "dp.st.", 20, is_dotted),
    ("dp.ct.", "dp.ct.", 20, is_dotted),
    ("fo1_", "fo1_", 32),
    ("fm1r_", "fm1r_", 40, is_base64),
    ("fm1a_", "fm1a_", 40, is_base64),
    ("fm2_", "fm2_", 40, is_base64),
    ("LTAI", "ltai", 16, is_plain),
    ("AKID", "akid", 32, is_plain),
    ("ops_eyJ", "ops_eyj", 40, is_base64),
    ("sha256~", "sha256~", 40),
    ("xkeysib-", "xkeysib-", 40),
    ("tfp_", "tfp_", 40, is_base64),
    ("CLOJARS_", "clojars_", 40),
    ("EZAK", "ezak", 50, is_plain),
    ("EZTK", "eztk", 50, is_plain),
    ("duffel_live_", "duffel_live_", 30),
    ("duffel_test_", "duffel_test_", 30),
    ("shippo_live_", "shippo_live_", 30),
    ("shippo_test_", "shippo_test_", 30),
    ("FLWSECK", "flwseck", 12),
    ("fio-u-", "fio-u-", 40, is_base64),
    ("rdme_", "rdme_", 40),
    ("pnu_", "pnu_", 32, is_plain),
    ("sgp_", "sgp_", 32),
    ("sbp_", "sbp_", 32),
    ("sb_secret_", "sb_secret_", 20),
    ("cfut_", "cfut_", 32),
    ("cfat_", "cfat_", 32),
    ("tskey-", "tskey-", 20),
    ("cio", "cio", 32, is_plain),
    ("bkua_", "bkua_", 32),
    ("CCIPAT_", "ccipat_", 32),
    ("nfp_", "nfp_", 32, is_plain),
    ("HRKU-", "hrku-", 32),
    ("rnd_", "rnd_", 28, is_plain),
    ("figd_", "figd_", 32),
    ("pat-na1-", "pat-na1-", 32),
    ("pat-eu1-", "pat-eu1-", 32),
    ("squ_", "squ_", 36, is_plain),
    ("sqp_", "sqp_", 36, is_plain),
    ("sqa_", "sqa_", 36, is_plain),
    ("AstraCS:", "astracs:", 24, is_listed),
    ("napi_", "napi_", 40, is_plain),
    ("avns_", "avns_", 16),
    ("lsv2_pt_", "lsv2_pt_", 32),
    ("ollama_", "ollama_", 40),
    ("gsk_", "gsk_", 40, is_plain),
];

static PREFIX: LazyLock<Regex> = LazyLock::new(|| {
    let prefixes: Vec<String> = TOKENS.iter().map(|token| regex::escape(token.prefix)).collect();
    Regex::new(&prefixes.join("|")).expect("prefixes are escaped")
});

/// Whether enough characters for a key follow, in the class that includes all others.
pub(super) fn may(text: &[u8], _: usize, to: usize) -> bool {
    const MIN_CHARS: usize = 8;
    text.len() >= to + MIN_CHARS && text[to..to + MIN_CHARS].iter().all(|b| is_base64(*b))
}

/// Hides such keys.
pub(super) fn apply(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut edit = TextEdit::of(text);
    let mut at = 0;
    while let Some(prefix) = PREFIX.find_at(text, at) {
        at = prefix.start() + 1;
        // Several prefixes may match here.
        let here = TOKENS
            .iter()
            .filter(|token| bytes[prefix.start()..].starts_with(token.prefix.as_bytes()));
        let ends = here.filter_map(|token| {
            let from = prefix.start() + token.prefix.len();
            let enough = bytes.get(from..from + token.least)?.iter().all(|b| (token.of)(*b));
            let length = || bytes[from..].iter().take_while(|b| (token.of)(**b)).count();
            enough.then(|| from + length())
        });
        if let Some(end) = ends.max() {
            edit.hide(prefix.start(), end);
            at = end;
        }
    }
    edit.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_looks_for_each_prefix() {
        for (token, word) in TOKENS.iter().zip(WORDS) {
            assert_eq!(token.prefix.to_ascii_lowercase(), *word);
        }
    }

    #[test]
    fn each_kind_of_key_goes_and_what_only_begins_like_one_stays() {
        for token in TOKENS {
            let key = format!("{}{}", token.prefix, "a1".repeat(token.least));
            assert_eq!(apply(&format!("key {key} end")), "key *** end", "{}", token.prefix);
            let short = format!("{}a1 end", token.prefix);
            assert_eq!(apply(&short), *short, "{}", token.prefix);
        }
    }
}
