;; An endless loop over growing memory by nothing.
(module
  (memory 1)
  (func (export "_start")
    (loop $for_ever
      (drop (memory.grow (i32.const 0)))
      (br $for_ever))))
