// SPDX-License-Identifier: Apache-2.0
/** Starts machines from the options of the API. */
import type { Session } from '../control/session.ts'
import { parseSize } from '../machine/scratch.ts'
import { DESCRIPTIONS } from '../policy/builtin.ts'
import { blockOptions, blocksProblem, checkQuirks } from '../policy/policy.ts'
import { EL2_COMMAND_LINE, EL2_KERNEL, EL2_QEMU_ARGS } from '../run/el2.ts'
import { machineFiles } from '../run/files.ts'
import { checkSizes, commandLine, DEFAULTS } from '../run/options.ts'
import { RunningMachine } from '../run/runningMachine.ts'
import type { Transport } from '../trap/messages.ts'
import { Problem } from './problems.ts'
import { OWN_POLICY, type StartOptions } from './schemas/lifecycle.ts'

const MAX_MEMORY = 64 * 2 ** 30

/** Settings of the server, the same for all machines. */
export interface LaunchDefaults {
  readonly qemu?: string
  readonly ramDir?: string
  readonly transport?: Transport
  /** Whether QEMU is confined; default: it is. */
  readonly sandbox?: boolean
  /** A policy file, offered as `own`. */
  readonly policyFile?: string
  readonly progress?: (line: string) => void
}

const words = (error: unknown): string => (error instanceof Error ? error.message : String(error))

/** Checks the options. @returns name of the policy, or its file for `own`. @throws Problem */
function checkedPolicy(options: StartOptions, { policyFile }: LaunchDefaults): string {
  const { memory = DEFAULTS.memory, carveout = DEFAULTS.carveout, policy = DEFAULTS.policy } = options
  if (options.el2 === 'pkvm' && (options.granule ?? DEFAULTS.granule) !== DEFAULTS.granule)
    throw new Problem(422, `granule ${options.granule}: EL2 gives and takes pages of ${DEFAULTS.granule} bytes`)
  if (parseSize(memory) > MAX_MEMORY) throw new Problem(422, `memory ${memory}: more than 64G`)
  try {
    checkSizes({ memory, carveout })
  } catch (error) {
    throw new Problem(422, words(error))
  }
  const blocks = blocksProblem(policy, policy !== OWN_POLICY, options)
  if (blocks !== undefined) throw new Problem(422, blocks)
  if (policy !== OWN_POLICY) {
    checkChoices(policy, options)
    return policy
  }
  if (policyFile === undefined) throw new Problem(422, 'the server was started without a policy file')
  return policyFile
}

/** What a policy of ours has. @throws Problem */
function checkChoices(
  policy: string,
  { quirks = [], oracle = false, until = DEFAULTS.until, el2 }: StartOptions,
): void {
  const description = DESCRIPTIONS.get(policy)
  try {
    checkQuirks(policy, description?.quirks ?? {}, quirks)
  } catch (error) {
    throw new Problem(422, words(error))
  }
  if (oracle && el2 !== 'pkvm' && !description?.facilities({ until }).includes('stage2'))
    throw new Problem(422, `oracle: policy ${policy}, until ${until}, has no second stage: nothing is isolated`)
}

/**
 * Runs set-up as far as needed, then starts the machine.
 * @param before called with the session before it is recorded
 * @throws Problem for wrong options, Error when the machine cannot be started
 */
export async function launch(
  options: StartOptions,
  defaults: LaunchDefaults,
  signal: AbortSignal,
  before: (session: Session, kernel: { readonly version: string; readonly image: string }) => void,
): Promise<RunningMachine> {
  const policy = checkedPolicy(options, defaults)
  const { qemu, ramDir = DEFAULTS.ramDir, transport = DEFAULTS.transport, sandbox = true, progress } = defaults
  const el2 = options.el2 === 'pkvm'
  const files = await machineFiles(
    {
      kernel: options.kernel ?? (el2 ? EL2_KERNEL : DEFAULTS.kernel),
      attack: el2,
      ...(qemu !== undefined && { qemu }),
    },
    { signal, ...(progress && { progress }) },
  )
  signal.throwIfAborted()
  const { bench = 0 } = options
  const run = options.run === 'workload' ? (el2 ? 'el2' : 'workload') : 'shell'
  const append = [...(el2 ? [EL2_COMMAND_LINE] : []), ...(options.append === undefined ? [] : [options.append])].join(
    ' ',
  )
  const machine = await RunningMachine.start(
    {
      memory: options.memory ?? DEFAULTS.memory,
      carveout: options.carveout ?? DEFAULTS.carveout,
      smp: options.smp ?? DEFAULTS.smp,
      ramDir,
      sandbox,
      commandLine: commandLine({ run, bench, ...(append !== '' && { append }) }),
      ...(el2 && { qemuArgs: EL2_QEMU_ARGS }),
      policy: {
        name: policy,
        options: {
          until: options.until ?? DEFAULTS.until,
          granule: options.granule ?? DEFAULTS.granule,
          requireIsolation: options.requireIsolation ?? false,
          ats: options.ats ?? false,
          ...blockOptions(options),
          quirks: options.quirks ?? [],
        },
        panicOnWarn: options.panicOnWarn ?? false,
        transport,
        oracle: options.oracle ?? false,
      },
    },
    files,
  )
  const { session } = machine
  before(session, files.kernel)
  // A recording that cannot be written must not stop the machine.
  const recorder = await machine.record().catch(() => undefined)
  void session.ended.catch(() => {}).finally(() => recorder?.close().catch(() => {}))
  return machine
}
