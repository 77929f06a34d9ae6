;; An endless loop over throwing an exception to itself.
(module
  (tag $tag)
  (func (export "_start")
    (loop $for_ever
      (block $caught
        (try_table (catch_all $caught) (throw $tag)))
      (br $for_ever))))
