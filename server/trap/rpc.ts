// SPDX-License-Identifier: Apache-2.0
/**
 * Calls from one thread to another, as messages. The interface that the called object implements is the only description:
 * the types of methods, arguments and results of both ends follow from it.
 */

/** One of the methods of an interface, with its arguments. */
export type Call<Interface> = {
  [M in keyof Interface]: Interface[M] extends (...args: infer A) => unknown
    ? { readonly method: M; readonly args: A }
    : never
}[keyof Interface]

/** Arguments of a method. */
export type Arguments<Interface, M extends keyof Interface> = Interface[M] extends (...args: infer A) => unknown
  ? A
  : never

/** What the caller of a method gets in the end. */
export type Result<Interface, M extends keyof Interface> = Interface[M] extends (...args: never[]) => infer R
  ? Awaited<R>
  : never

/** A call, made of a method and arguments that belong together. */
export function callOf<Interface, M extends keyof Interface>(
  method: M,
  args: Arguments<Interface, M>,
): Call<Interface> {
  return { method, args } as unknown as Call<Interface>
}

/** Calls the method of `object`. @throws whatever the method throws, TypeError when there is no such method */
export function invoke<Interface extends object>(object: Interface, { method, args }: Call<Interface>): unknown {
  const found: unknown = object[method]
  // The other end may run other code: the source files are replaced while the program runs.
  if (typeof found !== 'function') throw new TypeError(`no operation "${String(method)}"`)
  return Reflect.apply(found, object, args as readonly unknown[])
}
