use crate::{Error, Request};

/// The kernel, as a library OS sees it.
pub trait Kernel {
    /// Asks for something. See [`Request`] for what each request needs and answers.
    fn call(&self, request: Request) -> Result<u64, Error>;
}

impl<K: Kernel + ?Sized> Kernel for &K {
    fn call(&self, request: Request) -> Result<u64, Error> {
        (**self).call(request)
    }
}
