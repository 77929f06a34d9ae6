;; Loops before anything was called: in the start function, which instantiation runs.
(module
  (func $start (loop $for_ever (br $for_ever)))
  (start $start)
  (func (export "_start")))
