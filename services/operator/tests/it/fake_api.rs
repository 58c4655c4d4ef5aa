//! A small API server of Kubernetes in memory, over HTTP on a port of the loopback address: just what the operator uses of one.
//!
//! It keeps any kind of object and knows versions and conflicts, generations, finalizers, preconditions, the status and scale
//! subresources, label selectors, lists and watches. It validates nothing and runs no controllers: a test plays those. Shared with the
//! tests of the whole system.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::net::TcpListener;
use tokio::sync::watch;

type Body = BoxBody<Bytes, Infallible>;
/// Collection, namespace, name.
type Key = (String, String, String);

/// A write that the server was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    pub method: String,
    /// The path without the leading slash.
    pub path: String,
    pub body: Value,
}

impl Write {
    /// Method and path, for short comparisons.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

struct Event {
    version: u64,
    kind: &'static str,
    key: Key,
    object: Value,
}

#[derive(Default)]
struct State {
    version: u64,
    objects: BTreeMap<Key, Value>,
    events: Vec<Event>,
    writes: Vec<Write>,
    /// Refusals to come: the end of a path, the status to answer a write of it with.
    refusals: VecDeque<(String, u16)>,
}

/// The server. Cheap to clone.
#[derive(Clone)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<u64>>,
    address: SocketAddr,
}

/// What a path means.
struct Route {
    collection: String,
    namespace: Option<String>,
    name: Option<String>,
    sub: Option<String>,
}

fn route(path: &str) -> Option<Route> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (prefix, rest) = match *parts.first()? {
        "api" => (parts.get(..2)?, parts.get(2..)?),
        "apis" => (parts.get(..3)?, parts.get(3..)?),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
        rest => (None, rest),
    };
    let (plural, rest) = rest.split_first()?;
    let at = |index: usize| rest.get(index).map(|part| (*part).to_owned());
    Some(Route { collection: format!("{}/{plural}", prefix.join("/")), namespace, name: at(0), sub: at(1) })
}

fn key(path: &str) -> Key {
    let route = route(path).unwrap_or_else(|| panic!("{path}: no path of an object"));
    (route.collection, route.namespace.unwrap_or_default(), route.name.expect("an object has a name"))
}

impl FakeApi {
    /// Listens.
    pub async fn start() -> FakeApi {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let api = FakeApi { state: Arc::default(), changed: Arc::new(watch::channel(0).0), address };
        let server = api.clone();
        tokio::spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                let server = server.clone();
                let answer = service_fn(move |request| {
                    let server = server.clone();
                    async move { Ok::<_, Infallible>(server.answer(request).await) }
                });
                tokio::spawn(async move {
                    let io = TokioIo::new(socket);
                    drop(hyper::server::conn::http1::Builder::new().serve_connection(io, answer).await);
                });
            }
        });
        api
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Puts an object there as a user would: with a version, a unique id and a generation, and without a status unless it is not there
    /// yet.
    pub fn put(&self, path: &str, mut object: Value) -> Value {
        let key = key(path);
        let mut state = self.lock();
        object["metadata"]["name"] = json!(key.2);
        if !key.1.is_empty() {
            object["metadata"]["namespace"] = json!(key.1);
        }
        let stored = match state.objects.get(&key).cloned() {
            Some(before) => state.replace(&key, &before, object),
            None => state.insert(&key, object),
        };
        drop(state);
        self.notify();
        stored
    }

    /// Changes an object, status included, as if by whoever may.
    pub fn change(&self, path: &str, change: impl FnOnce(&mut Value)) -> Value {
        let key = key(path);
        let mut state = self.lock();
        let before = state.objects.get(&key).cloned().unwrap_or_else(|| panic!("no {path}"));
        let mut after = before.clone();
        change(&mut after);
        let stored = state.store(&key, &before, after);
        drop(state);
        self.notify();
        stored
    }

    /// An object.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.lock().objects.get(&key(path)).cloned()
    }

    /// Deletes an object as a user would: it stays while it has finalizers.
    pub fn delete(&self, path: &str) {
        let key = key(path);
        self.lock().delete(&key);
        self.notify();
    }

    /// The writes since the last call, other than by the test.
    pub fn take_writes(&self) -> Vec<Write> {
        std::mem::take(&mut self.lock().writes)
    }

    /// Answers the next write of a path with this end with a failure.
    pub fn refuse_next(&self, path_end: &str, status: u16) {
        self.lock().refusals.push_back((path_end.to_owned(), status));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn notify(&self) {
        let version = self.lock().version;
        self.changed.send_replace(version);
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let Some(route) = route(parts.uri.path()) else {
            return failure(404, "no such path");
        };
        let query = query(parts.uri.query().unwrap_or_default());
        if parts.method == Method::GET {
            return match (&route.name, query.get("watch").map(String::as_str)) {
                (Some(name), _) => {
                    let key = (route.collection, route.namespace.unwrap_or_default(), name.clone());
                    match self.lock().objects.get(&key) {
                        Some(object) => success(object),
                        None => failure(404, "not found"),
                    }
                }
                (None, Some("true" | "1")) => self.watch(&route, &query),
                (None, _) => self.list(&route, &query),
            };
        }
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let path = parts.uri.path().trim_matches('/').to_owned();
        let answer = self.lock().write(&parts.method, &route, path, body);
        self.notify();
        match answer {
            Ok(object) => success(&object),
            Err((status, message)) => failure(status, message),
        }
    }

    fn list(&self, route: &Route, query: &BTreeMap<String, String>) -> Response<Body> {
        let state = self.lock();
        let items: Vec<&Value> = state
            .objects
            .iter()
            .filter(|(key, object)| belongs(key, route) && selected(object, query))
            .map(|(_, object)| object)
            .collect();
        let (group, _) = route.collection.rsplit_once('/').expect("a collection has a group");
        success(&json!({
            "kind": "List",
            "apiVersion": group.trim_start_matches("apis/").trim_start_matches("api/"),
            "metadata": {"resourceVersion": state.version.to_string()},
            "items": items,
        }))
    }

    fn watch(&self, route: &Route, query: &BTreeMap<String, String>) -> Response<Body> {
        let since: u64 = query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
        let (api, changes) = (self.clone(), self.changed.subscribe());
        let wanted = (route.collection.clone(), route.namespace.clone());
        let lines = stream::unfold((since, changes), move |(since, mut changes)| {
            let (api, wanted) = (api.clone(), wanted.clone());
            async move {
                loop {
                    changes.borrow_and_update();
                    let (lines, version) = api.news(&wanted, since);
                    if !lines.is_empty() {
                        return Some((Bytes::from(lines), (version, changes)));
                    }
                    changes.changed().await.ok()?;
                }
            }
        });
        let frames = lines.map(|line| Ok(Frame::data(line)));
        Response::new(BodyExt::boxed(StreamBody::new(frames)))
    }

    /// Events since a version, as lines.
    fn news(&self, wanted: &(String, Option<String>), since: u64) -> (String, u64) {
        let state = self.lock();
        let of = |event: &&Event| {
            event.version > since
                && event.key.0 == wanted.0
                && wanted.1.as_ref().is_none_or(|namespace| *namespace == event.key.1)
        };
        let lines = state.events.iter().filter(of);
        let lines = lines.map(|event| json!({"type": event.kind, "object": event.object}).to_string() + "\n");
        (lines.collect(), state.version)
    }
}

impl State {
    fn next(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    fn insert(&mut self, key: &Key, mut object: Value) -> Value {
        let version = self.next();
        let metadata = &mut object["metadata"];
        metadata["uid"] = json!(format!("uid-{version}"));
        metadata["generation"] = json!(1);
        metadata["resourceVersion"] = json!(version.to_string());
        if metadata["creationTimestamp"].is_null() {
            metadata["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        self.note("ADDED", key, &object);
        self.objects.insert(key.clone(), object.clone());
        object
    }

    /// Keeps what a write of the object itself does not change.
    fn replace(&mut self, key: &Key, before: &Value, mut after: Value) -> Value {
        for kept in ["uid", "generation", "creationTimestamp", "deletionTimestamp"] {
            if !before["metadata"][kept].is_null() {
                after["metadata"][kept] = before["metadata"][kept].clone();
            }
        }
        if before["status"].is_null() {
            after.as_object_mut().expect("an object").remove("status");
        } else {
            after["status"] = before["status"].clone();
        }
        self.store(key, before, after)
    }

    fn store(&mut self, key: &Key, before: &Value, mut after: Value) -> Value {
        after["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
        if after == *before {
            return after;
        }
        if after["spec"] != before["spec"] {
            after["metadata"]["generation"] =
                json!(before["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
        }
        let version = self.next();
        after["metadata"]["resourceVersion"] = json!(version.to_string());
        let held = after["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
        if !after["metadata"]["deletionTimestamp"].is_null() && !held {
            self.objects.remove(key);
            self.note("DELETED", key, &after);
        } else {
            self.objects.insert(key.clone(), after.clone());
            self.note("MODIFIED", key, &after);
        }
        after
    }

    fn delete(&mut self, key: &Key) {
        let Some(before) = self.objects.get(key).cloned() else { return };
        let mut after = before.clone();
        after["metadata"]["deletionTimestamp"] = json!("2026-01-02T00:00:00Z");
        self.store(key, &before, after);
    }

    fn note(&mut self, kind: &'static str, key: &Key, object: &Value) {
        self.events.push(Event { version: self.version, kind, key: key.clone(), object: object.clone() });
    }

    fn write(
        &mut self,
        method: &Method,
        route: &Route,
        path: String,
        body: Value,
    ) -> Result<Value, (u16, &'static str)> {
        self.writes.push(Write { method: method.to_string(), path: path.clone(), body: body.clone() });
        if self.refusals.front().is_some_and(|(end, _)| path.ends_with(end)) {
            let (_, status) = self.refusals.pop_front().expect("it was looked at");
            return Err((status, "refused by the test"));
        }
        let namespace = route.namespace.clone().unwrap_or_default();
        if *method == Method::POST {
            let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let key = (route.collection.clone(), namespace.clone(), name);
            if self.objects.contains_key(&key) {
                return Err((409, "already exists"));
            }
            let mut object = body;
            object["metadata"]["namespace"] = json!(namespace);
            return Ok(self.insert(&key, object));
        }
        let key = (route.collection.clone(), namespace, route.name.clone().unwrap_or_default());
        let before = self.objects.get(&key).cloned().ok_or((404, "not found"))?;
        let current = &before["metadata"];
        let stale = |version: &Value| !version.is_null() && *version != current["resourceVersion"];
        let wanted = if *method == Method::DELETE { &body["preconditions"] } else { &body["metadata"] };
        if stale(&wanted["resourceVersion"]) || !wanted["uid"].is_null() && wanted["uid"] != current["uid"] {
            return Err((409, "the object has been modified"));
        }
        match (method.as_str(), route.sub.as_deref()) {
            ("DELETE", None) => {
                self.delete(&key);
                Ok(before)
            }
            ("PUT", None) => Ok(self.replace(&key, &before, body)),
            ("PATCH", None) => {
                let mut after = before.clone();
                merge(&mut after, &body);
                Ok(self.replace(&key, &before, after))
            }
            ("PATCH", Some("status")) => {
                let mut after = before.clone();
                after["status"] = body["status"].clone();
                Ok(self.store(&key, &before, after))
            }
            ("PATCH", Some("scale")) => {
                let mut after = before.clone();
                after["spec"]["replicas"] = body["spec"]["replicas"].clone();
                let after = self.store(&key, &before, after);
                Ok(json!({
                    "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": after["metadata"],
                    "spec": {"replicas": after["spec"]["replicas"]}, "status": {"replicas": 0},
                }))
            }
            _ => Err((405, "not allowed")),
        }
    }
}

fn belongs(key: &Key, route: &Route) -> bool {
    key.0 == route.collection && route.namespace.as_ref().is_none_or(|namespace| *namespace == key.1)
}

fn selected(object: &Value, query: &BTreeMap<String, String>) -> bool {
    let selector = query.get("labelSelector").map(String::as_str).unwrap_or_default();
    selector
        .split(',')
        .filter_map(|one| one.split_once('='))
        .all(|(key, value)| object["metadata"]["labels"][key].as_str() == Some(value))
}

/// A JSON merge patch (RFC 7386).
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let target = target.as_object_mut().expect("it was made one");
    for (key, change) in changes {
        if change.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), change);
        }
    }
}

fn query(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), percent_decoded(value))).collect()
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        let decoded = match byte {
            b'%' => {
                let digits = [bytes.next().unwrap_or(b'0'), bytes.next().unwrap_or(b'0')];
                u8::from_str_radix(&String::from_utf8_lossy(&digits), 16).unwrap_or(b'?')
            }
            b'+' => b' ',
            other => other,
        };
        out.push(decoded);
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn success(object: &Value) -> Response<Body> {
    respond(StatusCode::OK, object)
}

fn failure(status: u16, message: &str) -> Response<Body> {
    let reason = match status {
        404 => "NotFound",
        409 if message.contains("exists") => "AlreadyExists",
        409 => "Conflict",
        _ => "InternalError",
    };
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": status, "reason": reason, "message": message,
    });
    respond(StatusCode::from_u16(status).unwrap(), &body)
}

fn respond(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}
