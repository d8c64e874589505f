// SPDX-License-Identifier: Apache-2.0
/** Cases as files: JSON, one step a line, numbers in hexadecimal where people read them so. */
import { type Static, Type } from 'typebox'
import { Value } from 'typebox/value'
import { PAGE_SIZE } from '../oracle/pageMap.ts'
import { BBM_LEVELS, GRANULES, POWER_MODES, type PolicyFactory, SERIES_STEPS, withQuirks } from '../policy/policy.ts'
import { POWER_STATES } from '../smmu/hardware.ts'
import type { RamRange } from './memory.ts'
import type { Finding, Kinds } from './oracle.ts'
import { MODES, Stage } from './program.ts'
import { FIRMWARE, HARDWARE, POPULATE, type Setup } from './setup.ts'
import { EL2_ACTIONS, type Step } from './steps.ts'

const MAX_STEPS = 100_000
const MAX_MEANWHILE = 64
const MAX_WORDS = 1024
const MAX_TIMES = 2 ** 14
const MAX_RAM = 2 ** 26

const Integer = (maximum: number, minimum = 0) => Type.Integer({ minimum, maximum })
const Word = Integer(2 ** 32 - 1)
const Address = Integer(2 ** 52 - 1)
/** Of a 32-bit word. */
const WordAddress = Type.Integer({ minimum: 0, maximum: 2 ** 52 - 4, multipleOf: 4 })
const Smmu = Integer(2)
const Range = Type.Object({ base: Address, size: Integer(MAX_RAM, 4096) }, { additionalProperties: false })

const SetupSchema = Type.Object(
  {
    smmus: Integer(3, 1),
    ram: Type.Array(Range, { minItems: 1, maxItems: 4 }),
    carveout: Range,
    until: Type.Enum([...SERIES_STEPS]),
    granule: Type.Enum([...GRANULES]),
    sidBits: Integer(20, 1),
    twoLevel: Type.Boolean(),
    oas: Integer(6),
    endian: Type.Enum(['little', 'big', 'mixed']),
    rangeInvalidation: Type.Boolean(),
    ssidBits: Integer(8),
    caching: Type.Enum(['none', 'architectural', 'walks', 'maximal']),
    hardware: Type.Array(Type.Enum([...HARDWARE]), { maxItems: HARDWARE.length }),
    firmware: Type.Enum([...FIRMWARE]),
    posts: Type.Boolean(),
    blocks: Type.Optional(Type.Boolean()),
    bbml: Type.Optional(Type.Enum([...BBM_LEVELS])),
    power: Type.Optional(Type.Enum([...POWER_MODES])),
    resetsToAbort: Type.Optional(Type.Boolean()),
    shared: Type.Optional(Type.Enum([...POPULATE])),
  },
  { additionalProperties: false },
)

const StoreSchema = Type.Object(
  {
    do: Type.Literal('store'),
    address: WordAddress,
    words: Type.Array(Word, { maxItems: MAX_WORDS }),
    times: Type.Optional(Integer(MAX_TIMES, 1)),
  },
  { additionalProperties: false },
)
const DmaSchema = Type.Object(
  {
    do: Type.Literal('dma'),
    smmu: Smmu,
    sid: Word,
    ssid: Type.Optional(Integer(2 ** 20 - 1)),
    address: Address,
    write: Type.Boolean(),
    how: Type.Enum(['untranslated', 'atc', 'translated']),
  },
  { additionalProperties: false },
)
const PageSchema = Type.Object(
  { do: Type.Literal('page-request'), smmu: Smmu, sid: Word, address: Address, last: Type.Boolean() },
  { additionalProperties: false },
)
const RewriteSchema = Type.Object(
  { do: Type.Literal('rewrite'), words: Type.Array(Word, { maxItems: MAX_WORDS }) },
  { additionalProperties: false },
)
const MeanwhileSchema = Type.Union([StoreSchema, RewriteSchema, DmaSchema, PageSchema])
const Meanwhiles = Type.Array(MeanwhileSchema, { maxItems: MAX_MEANWHILE })
const interleaved = {
  during: Type.Optional(
    Type.Array(Type.Object({ access: Integer(2 ** 20, 1), steps: Meanwhiles }, { additionalProperties: false }), {
      maxItems: MAX_MEANWHILE,
    }),
  ),
  each: Type.Optional(Meanwhiles),
  dies: Type.Optional(Integer(2 ** 20, 1)),
}
const StepSchema = Type.Union([
  MeanwhileSchema,
  Type.Object(
    {
      do: Type.Enum(['read', 'write']),
      smmu: Smmu,
      offset: Word,
      size: Type.Enum([1, 2, 4, 8]),
      lo: Word,
      hi: Word,
      wrong: Type.Optional(Type.Literal(true)),
      ...interleaved,
    },
    { additionalProperties: false },
  ),
  Type.Object(
    {
      do: Type.Enum(['donate', 'reclaim']),
      base: Address,
      size: Integer(2 ** 32),
      vm: Integer(0xfffe),
      ...interleaved,
    },
    { additionalProperties: false },
  ),
  Type.Object(
    { do: Type.Literal('power'), smmu: Smmu, state: Type.Enum([...POWER_STATES]), ...interleaved },
    { additionalProperties: false },
  ),
  Type.Object(
    {
      do: Type.Literal('el2'),
      what: Type.Enum([...EL2_ACTIONS]),
      address: Address,
      vm: Integer(0xfffe),
      tlbi: Type.Boolean(),
      ...interleaved,
    },
    { additionalProperties: false },
  ),
  Type.Object({ do: Type.Enum(['reset', 'take-over', 'settle']), ...interleaved }, { additionalProperties: false }),
])

const CaseSchema = Type.Object(
  {
    /** What was found; the rest of a case shows it. */
    kind: Type.String({ maxLength: 200 }),
    message: Type.String({ maxLength: 2000 }),
    policy: Type.String({ maxLength: 1000 }),
    /** Defects that the policy was told to show. */
    quirks: Type.Optional(Type.Array(Type.String({ maxLength: 100 }), { maxItems: 100 })),
    mode: Type.Enum([...MODES]),
    /** Of what hardware does by chance. */
    seed: Word,
    setup: SetupSchema,
    steps: Type.Array(StepSchema, { maxItems: MAX_STEPS }),
    /** For people: what each step does, and what the real hypervisor would have said. */
    explanation: Type.Optional(Type.Array(Type.String({ maxLength: 4000 }), { maxItems: 2 * MAX_STEPS })),
  },
  { additionalProperties: false },
)

export type CaseFile = Static<typeof CaseSchema>

export interface Case {
  readonly kind: string
  readonly message: string
  readonly policy: string
  readonly quirks?: readonly string[]
  readonly mode: (typeof MODES)[number]
  readonly seed: number
  readonly setup: Setup
  readonly steps: readonly Step[]
  readonly explanation?: readonly string[]
}

/** Fields whose numbers are written in hexadecimal. */
const HEX: ReadonlySet<string> = new Set(['address', 'base', 'size', 'offset', 'lo', 'hi', 'sid', 'words'])

function toText(key: string, value: unknown): unknown {
  const hex = (number: unknown) => (typeof number === 'number' && number > 9 ? `0x${number.toString(16)}` : number)
  if (!HEX.has(key)) return value
  return Array.isArray(value) ? value.map(hex) : hex(value)
}

function fromText(key: string, value: unknown): unknown {
  const number = (text: unknown) => (typeof text === 'string' && /^0x[0-9a-f]{1,13}$/.test(text) ? Number(text) : text)
  if (!HEX.has(key)) return value
  return Array.isArray(value) ? value.map(number) : number(value)
}

/** @throws Error when ranges are not made of pages, overlap, or leave hypervisor memory outside */
function checkMemory({ ram, carveout }: Pick<Setup, 'ram' | 'carveout'>, name: string): void {
  const ends = ({ base, size }: RamRange) => base + size
  for (const { base, size } of [...ram, carveout]) {
    if (base % PAGE_SIZE !== 0 || size % PAGE_SIZE !== 0) throw new Error(`${name}: memory that is not made of pages`)
  }
  for (const [i, range] of ram.entries()) {
    if (i > 0 && range.base < ends(ram[i - 1])) throw new Error(`${name}: /setup/ram: not ascending`)
  }
  if (!ram.some(range => carveout.base >= range.base && ends(carveout) <= ends(range))) {
    throw new Error(`${name}: /setup/carveout: not in RAM`)
  }
}

export function encodeCase(case_: Case): string {
  const { steps, explanation, ...head } = case_
  const text = JSON.stringify(head, toText, 2).slice(0, -2)
  const lines = (items: readonly unknown[]) => items.map(item => `    ${JSON.stringify(item, toText)}`).join(',\n')
  const more = explanation === undefined ? '' : `,\n  "explanation": [\n${lines(explanation)}\n  ]`
  return `${text},\n  "steps": [\n${lines(steps)}\n  ]${more}\n}\n`
}

/** @throws Error that says where a file is no case */
export function decodeCase(text: string, name: string): Case {
  let value: unknown
  try {
    value = JSON.parse(text, fromText)
  } catch (error) {
    throw new Error(`${name}: ${(error as Error).message}`)
  }
  if (!Value.Check(CaseSchema, value)) {
    const [first] = Value.Errors(CaseSchema, value)
    throw new Error(`${name}: ${first?.instancePath || '/'}: ${first?.message ?? 'is no case'}`)
  }
  checkMemory(value.setup, name)
  return value as Case
}

/**
 * Performs a case on a machine of its own. `known`: kinds that are passed over.
 * @returns judged: false when the policy does not claim to isolate this machine, so that finding nothing means nothing
 */
export function performCase(
  { setup, mode, quirks, steps, seed }: Case,
  factory: PolicyFactory,
  known: Kinds = new Set<string>(),
): { readonly finding: Finding | undefined; readonly judged: boolean } {
  const stage = new Stage(setup, mode, withQuirks(factory, quirks), known)
  const finding = stage.perform(steps, seed, true)
  return { finding, judged: stage.world.oracle.claims }
}

/** What a case shows. */
export function replay(case_: Case, factory: PolicyFactory, known?: Kinds): Finding | undefined {
  return performCase(case_, factory, known).finding
}
