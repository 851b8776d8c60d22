// Uses the package @e2b/code-interpreter, and prints what came of each call as JSON.
import { Sandbox } from '@e2b/code-interpreter'

const seen = {}
const sandbox = await Sandbox.create({ allowInternetAccess: false })
seen.code = (await sandbox.runCode('1 + 1')).text
seen.command = (await sandbox.commands.run('echo hi')).stdout
await sandbox.files.write('a.txt', 'x')
seen.file = [await sandbox.files.read('a.txt'), (await sandbox.files.list('.')).map((entry) => entry.name)]
const context = await sandbox.createCodeContext({ cwd: '/tmp' })
seen.context = (await sandbox.runCode('import os; os.getcwd()', { context })).text
const live = await sandbox.commands.run('read x; echo $x', { background: true, stdin: true })
await sandbox.commands.sendStdin(live.pid, 'yes\n')
seen.live = (await live.wait()).stdout
try { await sandbox.commands.run('exit 3') } catch (error) { seen.exit = error.exitCode }
try { await sandbox.runCode('while True: pass', { timeoutMs: 500 }) } catch (error) { seen.late = error.name }
seen.after = (await sandbox.runCode('2 + 2')).text
seen.end = [await sandbox.isRunning(), await sandbox.kill(), await sandbox.isRunning()]
console.log(JSON.stringify(seen))
