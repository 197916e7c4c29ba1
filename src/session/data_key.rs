//! Where a session's data key comes from: one call of the control plane, when the agent asks for encryption.

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{ControlError, ControlErrorKind, ControlPlane, DataKeyGrant, DataKeyRequest, SessionId, control};
use crate::{proto::SealedKey, wire::DataKey};

/// How long the control plane may take: the agent waits for 15 s.
const PATIENCE: Duration = Duration::from_secs(12);

/// A data key, or why there is none.
pub(super) type Asking = Pin<Box<dyn Future<Output = Result<SealedKey, ControlError>> + Send>>;

/// Asks for the data key of one session.
pub(super) struct DataKeys {
    pub(super) control: Arc<dyn ControlPlane>,
    pub(super) session: SessionId,
    /// Exactly what the session was started on: both ends have to name the same. `None` if nobody has said.
    pub(super) target: Option<String>,
}

impl DataKeys {
    pub(super) fn ask(&self, key_id: String, challenge: Option<String>) -> Asking {
        let (control, session_id) = (Arc::clone(&self.control), self.session.clone());
        let failed = move |kind, resource: &str, message: String| ControlError {
            kind,
            operation: control::GENERATE_DATA_KEY,
            resource: resource.to_owned(),
            message,
            source: None,
        };
        let Some(target) = self.target.clone() else {
            let message = "the target of the session is not known".to_owned();
            let error = failed(ControlErrorKind::InvalidRequest, &key_id, message);
            return Box::pin(std::future::ready(Err(error)));
        };
        Box::pin(async move {
            tracing::debug!(session = %session_id, key = key_id, "GenerateDataKey");
            let request = DataKeyRequest { key_id, session_id, target, challenge };
            let key = &request.key_id;
            let DataKeyGrant { plaintext, ciphertext } = match timeout(PATIENCE, control.data_key(&request)).await {
                Ok(granted) => granted?,
                Err(_) => {
                    let message = format!("not answered within {} s", PATIENCE.as_secs());
                    return Err(failed(ControlErrorKind::Network, key, message));
                }
            };
            let bad = |message| failed(ControlErrorKind::BadAnswer, key, message);
            let plaintext = DataKey::new(&plaintext).map_err(|error| bad(error.to_string()))?;
            if ciphertext.is_empty() {
                return Err(bad("the encrypted key is empty".to_owned()));
            }
            Ok(SealedKey { plaintext, ciphertext })
        })
    }
}
