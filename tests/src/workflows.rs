//! Documents that stories submit.

use serde_json::{Value, json};

/// GET, wait, POST what was got: the job that the product is about.
pub fn process_data(wait_seconds: u32) -> Value {
    document(&json!([
        get("getData", "api/process/data"),
        wait(wait_seconds),
        post("complete", "api/process/complete"),
    ]))
}

/// A document with these tasks.
pub fn document(tasks: &Value) -> Value {
    json!({
        "document": {
            "dsl": "1.0.3", "namespace": "acme", "name": "process-data", "version": "1.0.0",
        },
        "do": tasks,
    })
}

/// GET to the partner API.
pub fn get(name: &str, path: &str) -> Value {
    call(name, &json!({ "method": "get", "endpoint": partner(path) }))
}

/// POST of the output so far to the partner API.
pub fn post(name: &str, path: &str) -> Value {
    call(name, &json!({ "method": "post", "endpoint": partner(path), "body": "${ . }" }))
}

/// `wait`
pub fn wait(seconds: u32) -> Value {
    json!({ "pause": { "wait": { "seconds": seconds } } })
}

/// A list of this task alone, which may take so long (ISO 8601).
pub fn bounded(task: &Value, timeout: &str) -> Value {
    let mut task = task.clone();
    for of_name in task.as_object_mut().into_iter().flat_map(|task| task.values_mut()) {
        of_name["timeout"] = json!({ "after": timeout });
    }
    json!([task])
}

/// Any call.
pub fn call(name: &str, with: &Value) -> Value {
    json!({ name: { "call": "http", "with": with } })
}

fn partner(path: &str) -> Value {
    json!({ "uri": path, "authentication": { "use": "PartnerAPI" } })
}
