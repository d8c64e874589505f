// SPDX-License-Identifier: Apache-2.0
/** Starts machines from the options of the API. */
import { FaultController } from '../control/faultController.ts'
import type { Session } from '../control/session.ts'
import { needsServer, planOf } from '../faults/plan.ts'
import type { FaultPlan } from '../faults/rule.ts'
import { inOrder } from '../machine/devices.ts'
import { parseSize } from '../machine/scratch.ts'
import { DESCRIPTIONS } from '../policy/builtin.ts'
import {
  blockOptions,
  blocksProblem,
  checkQuirks,
  powerOptions,
  powerProblem,
  stage2Options,
  stage2Problem,
} from '../policy/policy.ts'
import { EL2_COMMAND_LINE, EL2_KERNEL, el2QemuArgs } from '../run/el2.ts'
import { expectPages, type KernelFile, kernelArgs, machineFiles } from '../run/files.ts'
import { checkSizes, commandLine, DEFAULTS } from '../run/options.ts'
import { RunningMachine } from '../run/runningMachine.ts'
import type { Transport } from '../trap/messages.ts'
import { namedFile } from './namedFiles.ts'
import { Problem } from './problem.ts'
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
  /** Where recordings are looked for; default: where those of this user's runs are. */
  readonly runsFolder?: string
  /** A folder of kernels and initramfs that requests may name. */
  readonly imagesFolder?: string
  readonly progress?: (line: string) => void
  /** The log of the server: what goes wrong without ending the machine. */
  readonly say?: (line: string) => void
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
  const builtIn = policy !== OWN_POLICY
  const problem =
    blocksProblem(policy, builtIn, options) ??
    powerProblem(policy, builtIn, options) ??
    stage2Problem(policy, builtIn, options.el2 === 'pkvm', options)
  if (problem !== undefined) throw new Problem(422, problem)
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

/** Rules of the catalogue: what the schema lets through is no file's name. @throws Problem when they do not fit the machine */
async function faultsOf(policy: string, options: StartOptions, signal: AbortSignal): Promise<FaultPlan | undefined> {
  const { faults = [], seed = 1, until = DEFAULTS.until, translate = 'hardware' } = options
  if (faults.length === 0) return undefined
  try {
    return await planOf(faults, seed, { policy, until, translate }, signal)
  } catch (error) {
    signal.throwIfAborted()
    throw new Problem(422, `faults: ${words(error)}`)
  }
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
  before: (session: Session, kernel: KernelFile) => void,
): Promise<RunningMachine> {
  const policy = checkedPolicy(options, defaults)
  const { qemu, ramDir = DEFAULTS.ramDir, transport = DEFAULTS.transport, sandbox = true, progress } = defaults
  const el2 = options.el2 === 'pkvm'
  const image = options.image && namedFile(defaults.imagesFolder, options.image, 'image')
  const initrd = options.initrd && namedFile(defaults.imagesFolder, options.initrd, 'initrd')
  const faults = await faultsOf(policy, options, signal)
  const shell = options.run !== 'workload'
  const files = await machineFiles(
    {
      shell,
      ...(initrd && { initrd }),
      kernel: image || options.kernel || (el2 ? EL2_KERNEL : DEFAULTS.kernel),
      attack: el2,
      devices: inOrder(options.devices ?? []),
      slots: (options.slots ?? 0) > 0,
      ...(qemu !== undefined && { qemu }),
    },
    { signal, ...(progress && { progress }) },
  )
  signal.throwIfAborted()
  try {
    expectPages(files.kernel.pageSize ?? 0, [], el2)
  } catch (error) {
    throw new Problem(422, `kernel: ${words(error)}`)
  }
  const { bench = 0 } = options
  const run = shell ? 'shell' : el2 ? 'el2' : 'workload'
  const append = [...(el2 ? [EL2_COMMAND_LINE] : []), ...(options.append === undefined ? [] : [options.append])].join(
    ' ',
  )
  const machine = await RunningMachine.start(
    {
      memory: options.memory ?? DEFAULTS.memory,
      carveout: options.carveout ?? DEFAULTS.carveout,
      smp: options.smp ?? DEFAULTS.smp,
      ...(options.smmus !== undefined && { smmus: options.smmus }),
      devices: inOrder(options.devices ?? []),
      ...(options.slots !== undefined && { slots: options.slots }),
      ramDir,
      sandbox,
      ...(progress && { say: progress }),
      commandLine: commandLine({ run, bench, ...(append !== '' && { append }) }),
      nvme: options.nvme ?? true,
      qemuArgs: [...kernelArgs(files.kernel), ...(el2 ? el2QemuArgs(options.stage2 === 'shared') : [])],
      policy: {
        name: policy,
        options: {
          until: options.until ?? DEFAULTS.until,
          granule: options.granule ?? DEFAULTS.granule,
          requireIsolation: options.requireIsolation ?? false,
          ats: options.ats ?? false,
          ...blockOptions(options),
          ...powerOptions(options),
          ...stage2Options(options),
          quirks: options.quirks ?? [],
        },
        panicOnWarn: options.panicOnWarn ?? false,
        transport,
        translate: faults !== undefined && needsServer(faults.rules) ? 'server' : (options.translate ?? 'hardware'),
        ...(faults && { faults }),
        oracle: options.oracle ?? false,
      },
    },
    files,
  )
  const { session } = machine
  before(session, files.kernel)
  if (faults !== undefined) FaultController.of(session).watch(faults.rules)
  // A recording that cannot be written must not stop the machine.
  const recorder = await machine.record(undefined, undefined, defaults.say).catch((error: unknown) => {
    session.notRecorded = words(error)
    defaults.say?.(`NOT RECORDED: ${session.notRecorded}`)
  })
  void session.ended.catch(() => {}).finally(() => recorder?.close().catch(() => {}))
  return machine
}
