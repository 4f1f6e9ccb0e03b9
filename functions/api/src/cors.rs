//! CORS: which pages of other origins may call.

use http::{HeaderMap, HeaderValue, Uri, header};

use crate::config::ConfigError;

const EXPOSED: &str = "Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset";
const ALLOWED_HEADERS: &str = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, \
                               X-API-Key, traceparent";

pub struct Cors {
    origins: Vec<HeaderValue>,
    any: bool,
    credentials: bool,
}

impl Cors {
    pub fn new(origins: &[String], credentials: bool) -> Result<Self, ConfigError> {
        let any = origins.iter().any(|origin| origin == "*");
        if any && credentials {
            return Err(ConfigError::AnyOriginWithCredentials);
        }
        let named = origins.iter().filter(|origin| *origin != "*");
        let origins = named.map(|origin| checked(origin)).collect::<Result<_, _>>()?;
        Ok(Self { origins, any, credentials })
    }

    fn is_off(&self) -> bool {
        !self.any && self.origins.is_empty()
    }

    /// Adds the headers that allow the requesting page to read the response. Returns whether it
    /// may.
    pub fn apply(&self, asked: &HeaderMap, answer: &mut HeaderMap) -> bool {
        if self.is_off() {
            return false;
        }
        if !self.any {
            answer.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        let Some(origin) = asked.get(header::ORIGIN) else { return false };
        let named = self.origins.contains(origin);
        let allowed = if self.any { HeaderValue::from_static("*") } else { origin.clone() };
        if !named && !self.any {
            return false;
        }
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        if self.credentials {
            answer
                .insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        true
    }

    /// Answers a browser's preflight request.
    pub fn preflight(&self, asked: &HeaderMap, answer: &mut HeaderMap) {
        if asked.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) && self.apply(asked, answer) {
            for (name, value) in [
                (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, PATCH, DELETE"),
                (header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS),
                (header::ACCESS_CONTROL_MAX_AGE, "600"),
            ] {
                answer.insert(name, HeaderValue::from_static(value));
            }
        }
    }
}

fn checked(origin: &str) -> Result<HeaderValue, ConfigError> {
    let wrong = || ConfigError::BadOrigin(origin.to_owned());
    let uri: Uri = origin.parse().map_err(|_| wrong())?;
    let bare = uri.path() == "/" && uri.query().is_none() && !origin.ends_with('/');
    if uri.scheme().is_none() || uri.authority().is_none() || !bare {
        return Err(wrong());
    }
    HeaderValue::from_str(origin).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_origin_with_credentials_is_refused() {
        let origins = vec!["*".to_owned()];
        let error = Cors::new(&origins, true).err();
        assert_eq!(error, Some(ConfigError::AnyOriginWithCredentials));
        assert!(Cors::new(&origins, false).is_ok());
        for bad in ["ops.example.com", "https://ops.example.com/", "https://a/b", ""] {
            assert!(Cors::new(&[bad.to_owned()], false).is_err(), "{bad}");
        }
        assert!(Cors::new(&["https://ops.example.com:8443".to_owned()], true).is_ok());
    }
}
