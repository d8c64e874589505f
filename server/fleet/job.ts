// SPDX-License-Identifier: Apache-2.0
/**
 * A job on the queue, and what becomes of it. Both are data, and are looked at by schema before anything is done with them: senders and
 * workers trust each other with the name of a kernel, and not with a path, a word for QEMU, or code.
 */
import { type Static, Type } from 'typebox'
import { Compile } from 'typebox/compile'
import { ProgramsSchema } from '../attack/attack.ts'
import { WeaknessesSchema } from '../attack/known.ts'
import { HARDWARE, POPULATE } from '../attack/setup.ts'
import { type FaultRule, RuleSchema, SessionSchema, VERDICTS } from '../faults/rule.ts'
import { DEVICE_NAMES } from '../machine/devices.ts'
import { POLICY_NAMES } from '../policy/load.ts'
import { BBM_LEVELS, GRANULES, POWER_MODES, SERIES_STEPS } from '../policy/policy.ts'
import { longestMs } from '../sessions/deadline.ts'
import { TRANSLATE_MODES } from '../sessions/matrix.ts'
import { type Identity, IdentitySchema } from './identity.ts'

const strict = { additionalProperties: false } as const
const text = (maxLength: number) => Type.String({ maxLength })
const MAX_WORDS = 64

/** What stands on the sender's command line: a series of Debian's, or the name of a file, which only its hash stands for elsewhere. */
const Kernel = Type.String({ minLength: 1, maxLength: 4096 })
const machine = {
  append: Type.Optional(text(2048)),
  /** A worker takes those that its own command line has. */
  qemuArgs: Type.Optional(Type.Array(text(1000), { maxItems: MAX_WORDS })),
}
const Verdicts = Type.Union([
  Type.Enum([...VERDICTS]),
  Type.Array(Type.Enum([...VERDICTS]), { maxItems: VERDICTS.length }),
])

const SessionWork = Type.Object(
  {
    do: Type.Literal('session'),
    entry: Type.Object(
      {
        name: text(100),
        summary: text(2000),
        expect: Verdicts,
        why: text(2000),
        session: Type.Optional(SessionSchema),
        rules: Type.Unsafe<readonly FaultRule[]>(Type.Array(RuleSchema, { minItems: 1, maxItems: 64 })),
      },
      strict,
    ),
    kernel: Kernel,
    until: Type.Enum([...SERIES_STEPS]),
    seed: Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER }),
    devices: Type.Optional(Type.Array(Type.Enum([...DEVICE_NAMES]), { maxItems: DEVICE_NAMES.length })),
    ...machine,
  },
  strict,
)
export type SessionWork = Static<typeof SessionWork>

const CellWork = Type.Object(
  {
    do: Type.Literal('cell'),
    kernel: Kernel,
    devices: Type.Array(Type.Enum([...DEVICE_NAMES]), { maxItems: DEVICE_NAMES.length }),
    until: Type.Enum([...SERIES_STEPS]),
    translate: Type.Enum([...TRANSLATE_MODES]),
    granule: Type.Enum([...GRANULES]),
    policy: Type.Enum([...POLICY_NAMES]),
    memory: Type.String({ pattern: '^[0-9]{1,12}[KMGTkmgt]?i?B?$' }),
    smp: Type.Integer({ minimum: 1, maximum: 64 }),
    timeout: Type.Integer({ minimum: 1, maximum: 86_400 }),
    ...machine,
  },
  strict,
)
export type CellWork = Static<typeof CellWork>

const AttackWork = Type.Object(
  {
    do: Type.Literal('attack'),
    policy: Type.Enum([...POLICY_NAMES]),
    quirks: Type.Array(text(100), { maxItems: 100 }),
    until: Type.Enum([...SERIES_STEPS]),
    blocks: Type.Optional(Type.Object({ bbm: Type.Optional(Type.Enum([...BBM_LEVELS])) }, strict)),
    power: Type.Optional(Type.Object({ mode: Type.Optional(Type.Enum([...POWER_MODES])) }, strict)),
    shared: Type.Optional(Type.Object({ populate: Type.Optional(Type.Enum([...POPULATE])) }, strict)),
    hardware: Type.Array(Type.Enum([...HARDWARE]), { maxItems: HARDWARE.length }),
    seed: Type.Integer({ minimum: 0, maximum: 2 ** 32 - 1 }),
    known: WeaknessesSchema,
    seconds: Type.Optional(Type.Integer({ minimum: 1, maximum: 10 ** 7 })),
    operations: Type.Optional(Type.Integer({ minimum: 1, maximum: 10 ** 12 })),
    programs: ProgramsSchema,
  },
  strict,
)
export type AttackWork = Static<typeof AttackWork>

const Work = Type.Union([SessionWork, CellWork, AttackWork])
export type Work = Static<typeof Work>

const JobSchema = Type.Object({ identity: IdentitySchema, work: Work }, strict)
/** What BullMQ keeps as a job's data. */
export interface FleetJob {
  readonly identity: Identity
  readonly work: Work
}
const Job = Compile(JobSchema)

/** A job's kind by the name that its sender gave it, which may be any. */
export const kindOf = (name: string): Work['do'] | 'other' =>
  name === 'session' || name === 'cell' || name === 'attack' ? name : 'other'

/** Times that a job may end its workers, or the processes that they run it in. */
export const MOST_DEATHS = 3
/** How long Redis keeps what nobody has come for, s. */
export const KEPT_S = 7 * 24 * 3600

/** Whatever a job waits for besides its machine, as for set-up and other jobs, takes less, s. */
const SPARE_S = 7200
/** Operations of an attack take less, each, s. */
const OPERATION_S = 0.01

/** When the process of a job that does not end is killed: later than all deadlines that the job has itself, s. */
export function deadlineOf(work: Work): number {
  if (work.do === 'session') return SPARE_S + longestMs(work.entry) / 1000
  if (work.do === 'cell') return SPARE_S + work.timeout
  return (
    SPARE_S +
    Math.min(work.seconds ?? Number.POSITIVE_INFINITY, OPERATION_S * (work.operations ?? Number.POSITIVE_INFINITY))
  )
}

/** @throws Error saying where it is none */
export function checkJob(data: unknown): FleetJob {
  if (Job.Check(data)) {
    if (Number.isFinite(deadlineOf(data.work))) return data
    throw new Error('no job: /work has neither seconds nor operations: it would never end')
  }
  const [first] = Job.Errors(data)
  throw new Error(`no job: ${first?.instancePath || '/'} ${first?.message ?? 'is not as it has to be'}`)
}

/** A file that came of a job: its content is kept by its hash. */
const Artefact = Type.Object(
  {
    name: Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$' }),
    sha256: Type.String({ pattern: '^[0-9a-f]{64}$' }),
  },
  strict,
)
export type Artefact = Static<typeof Artefact>
/** Of one job. */
export const MOST_ARTEFACTS = 32

/** What BullMQ keeps as the value that a job returned: the first artefact is the result, as JSON. */
export const Returned = Compile(
  Type.Object(
    { worker: text(200), artefacts: Type.Array(Artefact, { minItems: 1, maxItems: MOST_ARTEFACTS }) },
    strict,
  ),
)

/** What BullMQ keeps as a job's progress: who refused it, and why. */
export const Refused = Compile(Type.Object({ refused: text(2000), worker: text(200) }, strict))
