//! An image as a source.

use std::sync::Arc;

use quern_core::Digest;
use quern_core::port::Cancel;
use quern_solver::{Blocking, CacheMap, MapStep, Op, OpContext, OpError, SharedResult};

use super::{Defined, digest_of};
use crate::images::{ImageRecord, ImageStore};

/// The root file system of an image. It is fetched and unpacked only if somebody needs its files.
pub struct ImageOp {
    /// Which image.
    pub image: ImageRecord,
    /// Where images are.
    pub store: Arc<ImageStore>,
}

impl Defined for ImageOp {
    /// Equal layers are equal images, whatever their names, manifests or compression.
    fn definition(&self) -> Digest {
        digest_of("quern.image.v1", |v| v.digest("chain", &self.image.chain_id()))
    }
}

impl Op for ImageOp {
    fn cache_map(&self, _: &OpContext<'_>, _: usize) -> Result<MapStep, OpError> {
        Ok(MapStep::Last(CacheMap::new(self.definition())))
    }

    fn exec(&self, ctx: &OpContext<'_>, _: &[SharedResult]) -> Result<Vec<SharedResult>, OpError> {
        let token = ctx.cancel_token();
        let cancel = Cancel::or_when(move || token.is_cancelled());
        let snapshot = self.store.unpacked(&self.image, &cancel).map_err(OpError::failed)?;
        Ok(vec![SharedResult::new(snapshot)])
    }

    fn blocking(&self) -> Blocking {
        Blocking::Exec
    }
}
