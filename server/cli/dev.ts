// SPDX-License-Identifier: Apache-2.0
import { resolve } from 'node:path'
import { type Command, Option } from 'commander'
import { LiveCode } from '../control/liveCode.ts'
import type { Session } from '../control/session.ts'
import { TrapThread } from '../control/trapThread.ts'
import { blockOptions, powerOptions, stage2Options } from '../policy/policy.ts'
import { ramFolder } from '../run/options.ts'
import { createCounters } from '../trace/counters.ts'
import { Pump } from '../trace/pump.ts'
import { createRing } from '../trace/ring.ts'
import { bootAction } from './boot.ts'
import { type BootOptions, bootOptions, tokenFile } from './bootOptions.ts'
import { abortOnSignal, EXIT, fail, UsageError, usage } from './exit.ts'
import { serverAddress } from './paths.ts'
import { checkPolicy, checkQuirkNames } from './policyCheck.ts'
import { transportLine } from './summary.ts'
import { say } from './terminal.ts'
import { readToken } from './tokenFile.ts'

interface DevOptions extends BootOptions {
  readonly watch: boolean
  readonly refused: 'keep' | 'reset'
  readonly listen?: string
}

/** Seconds that a machine waits while the code is being fixed. */
const RECONNECT = 3600

const QMP_MS = 10_000

/** `smmu-cosim dev`. */
export function devCommand(program: Command): void {
  bootOptions(program.command('dev'), RECONNECT)
    .description('boot, and replace the hypervisor’s code under the running Linux whenever a source file is saved')
    .option('--no-watch', 'do not replace code')
    .addOption(
      new Option(
        '--refused <what>',
        'what to do when new code cannot take over the state of the old: keep the old code, or reset the machine',
      )
        .choices(['keep', 'reset'])
        .default('keep'),
    )
    .option(
      '--listen <socket|host:port>',
      'only the server, for a machine that is started with boot --server',
      serverAddress,
    )
    .addOption(tokenFile())
    .action((options: DevOptions) =>
      options.listen === undefined ? develop(options) : listen(options, options.listen),
    )
}

/** Machine and server in this process. */
async function develop(options: DevOptions): Promise<void> {
  let live: LiveCode | undefined
  await bootAction({ ...options, timeout: 0 }, session => {
    if (!options.watch) return
    live = watchSession(session, options)
    void session.ended.catch(() => {}).finally(() => live?.close())
  })
  live?.close()
}

/** Replaces the code of a session's trap thread; also used where machines come and go. */
function watchSession(session: Session, options: DevOptions): LiveCode {
  // Code under development may throw: the machine waits until it is fixed.
  session.on('interrupted', (message, fault) => {
    say(message)
    if (!fault) return
    void session.thread?.park().then(() => say('the machine waits at its trap: fix the code and save it'))
  })
  session.thread?.on('lost', message => {
    say(`${message}; the machine is reset`)
    void session.reset(AbortSignal.timeout(QMP_MS)).catch(error => say(`it cannot be reset: ${error.message}`))
  })
  return new LiveCode({
    thread: () => session.thread,
    policy: options.policy,
    say,
    refused: () => {
      if (options.refused === 'reset') void session.thread?.startOver().catch(error => say(error.message))
      else say('--refused reset would reset the machine and start it with the new code')
    },
  })
}

/** The server alone. */
async function listen(options: DevOptions, address: string): Promise<void> {
  const { signal, dispose } = abortOnSignal()
  try {
    const without = Object.entries({
      '--dashboard': options.dashboard !== undefined,
      '--interactive': options.interactive === true,
      '--faults': options.faults !== undefined,
      '--refused reset': options.refused === 'reset',
    }).filter(([, given]) => given)
    for (const [name] of without) throw new UsageError(`${name} needs a machine; --listen runs only the server`)
    await checkQuirkNames(options.policy, options.quirk)
    await checkPolicy(options.policy, options.typeCheck, signal)
    const folder = ramFolder(options.ramDir)
    const token = usage(() => (options.tokenFile === undefined ? undefined : readToken(options.tokenFile)))
    const ring = createRing()
    const thread = await TrapThread.start({
      listen: address,
      policy: options.policy,
      policyOptions: {
        until: options.until,
        granule: Number(options.granule),
        requireIsolation: options.requireIsolation === true,
        ats: options.ats === true,
        ...blockOptions(options),
        ...powerOptions(options),
        ...stage2Options(options),
        quirks: options.quirk,
      },
      ramFile: `${resolve(folder)}/`,
      transport: options.transport,
      ring,
      counters: createCounters(),
      panicOnWarn: options.panicOnWarn === true,
      translate: options.translate,
      faithful: options.faithful === true,
      ...(token && { token }),
    })
    const pump = new Pump(ring)
    thread.on('connected', (machine, resumed, repairs) => {
      say(`QEMU ${machine.qemuVersion} ${resumed ? 'goes on with this server' : 'is connected'}`)
      for (const repair of repairs) say(`  ${repair}`)
    })
    thread.on('transport', use => say(transportLine(use).trim()))
    thread.on('refused', message => say(`a machine is not served: ${message}`))
    thread.on('turnedAway', say)
    thread.on('disconnected', (message, expected, fault) => {
      say(expected ? 'the machine has ended' : message)
      if (fault && options.watch) {
        void thread.park().then(() => say('the machine waits at its trap: fix the code and save it'))
      }
    })
    const died = new Promise<never>((_, reject) => thread.on('died', message => reject(new Error(message))))
    const live = options.watch ? new LiveCode({ thread: () => thread, policy: options.policy, say }) : undefined
    const who = token === undefined ? '' : ', for a QEMU that knows the token; what is sent is not encrypted'
    say(`listening on ${address}${who}`)
    try {
      const stopped = new Promise(resolve => signal.addEventListener('abort', resolve, { once: true }))
      if (!signal.aborted) await Promise.race([stopped, died])
      process.exitCode = EXIT.ok
    } finally {
      live?.close()
      await thread.stop()
      pump.close()
    }
  } catch (error) {
    fail(error, signal)
  } finally {
    dispose()
  }
}
