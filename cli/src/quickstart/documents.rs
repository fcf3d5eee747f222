//! The workflow documents of the quickstart.

use serde_json::{Value, json};

use super::configuration::PARTNER_API;

/// *GET api/process/data → wait → POST api/process/complete* with what was got.
pub(super) fn process_data() -> Value {
    json!({
        "document": { "dsl": "1.0.3", "namespace": "acme", "name": "process-data", "version": "1.0.0" },
        "do": [
            { "getData": { "call": "http", "with": {
                "method": "get",
                "endpoint": { "uri": "api/process/data", "authentication": { "use": PARTNER_API } },
            } } },
            { "pause": { "wait": { "seconds": 5 } } },
            { "complete": { "call": "http", "with": {
                "method": "post",
                "endpoint": { "uri": "api/process/complete", "authentication": { "use": PARTNER_API } },
                "body": "${ . }",
            } } },
        ],
    })
}

/// One call, short enough for a command line.
pub(super) fn get_data() -> Value {
    json!({
        "document": { "dsl": "1.0.3", "namespace": "acme", "name": "get-data", "version": "1.0.0" },
        "do": [{ "getData": { "call": "http", "with": {
            "method": "get",
            "endpoint": { "uri": "api/process/data", "authentication": { "use": PARTNER_API } },
        } } }],
    })
}

#[cfg(test)]
mod tests {
    use errand_shared::{config::Limits, workflow::check};

    use super::*;

    #[test]
    fn the_documents_are_valid() {
        for document in [process_data(), get_data()] {
            let workflow = check(&document, &Limits::default(), None).unwrap();
            assert_eq!(workflow.apis(), [PARTNER_API]);
        }
    }
}
