// SPDX-License-Identifier: Apache-2.0
/** Fields that several schemas have, and the types that clients and handlers get from a schema. */
import { type Static, type TSchema, Type } from 'typebox'

/** A JSON value, read-only. */
type DeepReadonly<T> = T extends readonly (infer E)[]
  ? readonly DeepReadonly<E>[]
  : T extends object
    ? { readonly [K in keyof T]: DeepReadonly<T[K]> }
    : T

/** The type of an answer that a schema describes. */
/** Name of a file in a folder: no separator, and no dot at its beginning. */
export const FILE_NAME = '^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$'

export type View<S extends TSchema> = DeepReadonly<Static<S>>

/** Numbers of 64 bits travel as text: `0x…`, or decimal digits. */
export const NumberText = (description: string) =>
  Type.String({ pattern: '^(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,16})$', description, examples: ['0x48000000'] })

/** As answers have them. */
export const HexText = (description: string) =>
  Type.String({ pattern: '^0x[0-9a-f]{1,16}$', description, examples: ['0x48000000'] })

export const Nullable = <S extends TSchema>(schema: S) => Type.Union([schema, Type.Null()])

/** A schema under the name that the OpenAPI document gives it. */
export const named = <S extends TSchema, I extends string>(id: I, schema: S): S & { readonly $id: I } =>
  Object.assign(schema, { $id: id, title: id })

/** Refers to a named schema, with its type. */
export const Ref = <S extends TSchema & { readonly $id: string }>({ $id }: S) => Type.Unsafe<Static<S>>({ $ref: $id })

/** Index of an SMMU of the machine. */
export const Smmu = Type.Integer({ minimum: 0, maximum: 255 })

export const StreamId = Type.Integer({ minimum: 0, maximum: 0xffff_ffff })

export const SubstreamId = Type.Integer({ minimum: 0, maximum: 0xf_ffff })

export const Device = Type.Object({ name: Type.String(), model: Type.String() })
