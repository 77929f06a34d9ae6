;; Nothing but an instance: one exported function that returns.
(module (func (export "_start")))
