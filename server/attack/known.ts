// SPDX-License-Identifier: Apache-2.0
/**
 * Weaknesses that are known, by kind: a file says why each stands, so that an attack that finds nothing else passes. One that does not show
 * any more is told as well.
 */
import { dirname, resolve } from 'node:path'
import { type Static, Type } from 'typebox'
import { Value } from 'typebox/value'
import type { PolicyFactory } from '../policy/policy.ts'
import { decodeCase, performCase } from './cases.ts'
import { readJson, readText } from './files.ts'
import { FIRMWARE, HARDWARE, type Setup } from './setup.ts'

const WeaknessSchema = Type.Object(
  {
    kind: Type.String({ minLength: 1, maxLength: 200 }),
    /** Only on machines that firmware left so. */
    firmware: Type.Optional(Type.Array(Type.Enum([...FIRMWARE]), { minItems: 1, maxItems: FIRMWARE.length })),
    /** Only where hardware has one of these. */
    hardware: Type.Optional(Type.Array(Type.Enum([...HARDWARE]), { minItems: 1, maxItems: HARDWARE.length })),
    why: Type.String({ minLength: 1, maxLength: 2000 }),
    /** A case that shows it, relative to the file. */
    case: Type.Optional(Type.String({ maxLength: 1000 })),
  },
  { additionalProperties: false },
)
export const WeaknessesSchema = Type.Array(WeaknessSchema, { maxItems: 1000 })
const KnownSchema = Type.Object({ weaknesses: WeaknessesSchema }, { additionalProperties: false })

export type Weakness = Static<typeof WeaknessSchema>

/** @throws Error that says what is wrong with the file */
export function readKnown(file: string): readonly Weakness[] {
  const value = readJson(file)
  if (!Value.Check(KnownSchema, value)) {
    const [first] = Value.Errors(KnownSchema, value)
    throw new Error(`${file}: ${first?.instancePath || '/'}: ${first?.message ?? 'no list of known weaknesses'}`)
  }
  return value.weaknesses
}

/** Kinds that are known of a machine. */
export function kindsOf(weaknesses: readonly Weakness[], setup: Setup): ReadonlySet<string> {
  const applies = ({ firmware, hardware }: Weakness) =>
    (firmware?.includes(setup.firmware) ?? true) && (hardware?.some(option => setup.hardware.includes(option)) ?? true)
  return new Set(weaknesses.filter(applies).map(({ kind }) => kind))
}

/** Those whose case does not show them any more, on a machine that the policy claims to isolate. */
export function mended(file: string, weaknesses: readonly Weakness[], factory: PolicyFactory): readonly Weakness[] {
  return weaknesses.filter(({ kind, case: path }) => {
    if (path === undefined) return false
    const at = resolve(dirname(file), path)
    const { finding, judged } = performCase(decodeCase(readText(at), at), factory)
    return judged && finding?.kind !== kind
  })
}
