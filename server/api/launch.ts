// SPDX-License-Identifier: Apache-2.0
import { join } from 'node:path'
import { ensureInitramfs, ensureKernel, ensureQemu } from '../../scripts/setup/index.ts'
import { Session } from '../control/session.ts'
import { newRunFolder, parseSize, Scratch } from '../machine/scratch.ts'
import { Workload } from '../machine/workload.ts'
import { describeMachine } from '../trace/format.ts'
import { newHeader, Recorder } from '../trace/recorder.ts'
import { Problem } from './problems.ts'
import { OWN_POLICY, type StartOptions } from './schemas/lifecycle.ts'

const MAX_MEMORY = 64 * 2 ** 30

/** What is the same for all machines of a server. */
export interface LaunchDefaults {
  readonly qemu?: string
  readonly ramDir?: string
  /** A policy file, offered as `own`. */
  readonly policyFile?: string
  readonly progress?: (line: string) => void
}

export interface Launched {
  readonly session: Session
  readonly workload: Workload
  /** After the session has ended. */
  dispose(): void
}

/** @throws Problem for options that cannot be. */
function check(options: StartOptions, defaults: LaunchDefaults): void {
  const memory = parseSize(options.memory ?? '1G')
  const carveout = parseSize(options.carveout ?? '64M')
  if (memory > MAX_MEMORY) throw new Problem(422, `memory ${options.memory}: more than 64G`)
  if (carveout % (2 << 20) !== 0) throw new Problem(422, `carveout ${options.carveout}: not a multiple of 2M`)
  if (carveout * 2 > memory) throw new Problem(422, `carveout ${options.carveout}: more than half of the memory`)
  if (options.policy === OWN_POLICY && defaults.policyFile === undefined) {
    throw new Problem(422, 'the server was started without a policy file')
  }
}

/** Records the run. A disk that refuses costs the recording, not the machine. */
async function record(session: Session, path: string, run: Parameters<typeof newHeader>[1]): Promise<void> {
  const { pump } = session
  if (pump === undefined) return
  const recorder = await Recorder.open({ path, header: newHeader(pump.now(), run) }).catch(() => undefined)
  if (recorder === undefined) return
  if (session.hello !== undefined) recorder.describe(describeMachine(session.hello))
  session.on('connected', hello => recorder.describe(describeMachine(hello)))
  pump.add(recorder)
  session.recording = recorder
  void session.ended.catch(() => {}).finally(() => recorder.close().catch(() => {}))
}

/** Makes ready what is missing, then starts the machine. */
export async function launch(
  options: StartOptions,
  defaults: LaunchDefaults,
  signal: AbortSignal,
  before: (session: Session, kernel: { readonly version: string; readonly image: string }) => void,
): Promise<Launched> {
  check(options, defaults)
  const { memory = '1G', carveout = '64M', policy = 'pkvm' } = options
  const setup = { signal, ...(defaults.progress && { progress: defaults.progress }) }
  const qemu = defaults.qemu ?? (await ensureQemu(setup))
  const kernel = await ensureKernel({ ...setup, kernel: options.kernel ?? '6.12' })
  const initrd = await ensureInitramfs({ ...setup, modules: kernel.modules })
  signal.throwIfAborted()
  let scratch: Scratch
  try {
    scratch = new Scratch(parseSize(memory), defaults.ramDir)
  } catch (error) {
    throw new Problem(409, (error as Error).message)
  }
  const workload = await Workload.create(scratch.sockets)
  const dispose = () => {
    workload.close()
    scratch.remove()
  }
  try {
    const words = ['console=ttyAMA0', 'panic=-1', `cosim.run=${options.run ?? 'shell'}`]
    words.push(workload.append(options.bench ?? 0))
    if (options.append) words.push(options.append)
    const runFolder = newRunFolder()
    const policyOptions = {
      until: options.until ?? 'nested',
      granule: options.granule ?? 4096,
      requireIsolation: options.requireIsolation ?? false,
    }
    const policyName = policy === OWN_POLICY ? (defaults.policyFile ?? policy) : policy
    const session = await Session.start({
      scratch,
      runFolder,
      machine: {
        binary: qemu,
        kernel: kernel.image,
        initrd,
        append: words.join(' '),
        memory,
        smp: options.smp ?? 1,
        virtioDisk: workload.virtioDisk,
        nvmeDisk: workload.nvmeDisk,
        network: true,
        extra: [],
      },
      policy: {
        name: policyName,
        options: policyOptions,
        panicOnWarn: options.panicOnWarn ?? false,
        carveout,
      },
    })
    before(session, kernel)
    await record(session, join(runFolder, 'trace'), {
      policy: policyName,
      policyOptions,
      kernel: kernel.version,
      image: kernel.image,
    })
    return { session, workload, dispose }
  } catch (error) {
    dispose()
    throw error
  }
}
