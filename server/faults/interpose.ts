// SPDX-License-Identifier: Apache-2.0

/** Names of an object's methods. */
type Methods<T> = { [K in keyof T]-?: NonNullable<T[K]> extends (...args: never[]) => unknown ? K : never }[keyof T]

/**
 * Puts functions in front of an object's methods, as properties of the object itself. Without them the object is exactly
 * what it was: nothing is left on the way of a call.
 * @param methods given the methods that stood there, bound
 * @param all methods of the port, so that none is a way around
 * @returns takes them away.
 */
export function interpose<T extends object>(
  target: T,
  methods: (below: Pick<T, Methods<T>>) => Pick<T, Methods<T>>,
  all: Readonly<Record<Methods<T>, true>>,
): () => void {
  const names = Object.keys(all) as Methods<T>[]
  const below = {} as Pick<T, Methods<T>>
  for (const name of names) {
    const method = target[name] as (...args: unknown[]) => unknown
    if (method !== undefined) below[name] = method.bind(target) as T[Methods<T>]
  }
  const above = methods(below)
  const put = names.filter(name => below[name] !== undefined)
  const own = put.map(name => (Object.hasOwn(target, name) ? target[name] : undefined))
  for (const name of put) target[name] = above[name] as T[Methods<T>]
  return () => {
    // Last first: an engine takes that back as if it had never been, and the object stays fast.
    for (let i = put.length - 1; i >= 0; i--) {
      const [name, before] = [put[i] as Methods<T>, own[i]]
      if (before === undefined) Reflect.deleteProperty(target, name)
      else target[name] = before
    }
  }
}
